//! The text of `/metrics`, read as Prometheus reads it.

use std::collections::HashMap;

use crate::http::http;

/// The types and series of one scrape.
pub struct Metrics {
    pub types: HashMap<String, String>,
    pub series: Vec<(String, f64)>,
}

impl Metrics {
    pub async fn scrape(address: &str) -> Metrics {
        let answer = http(address, "GET", "/metrics").await;
        assert_eq!(answer.status, 200);
        let mut metrics = Metrics { types: HashMap::new(), series: Vec::new() };
        for line in answer.body.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').unwrap();
                metrics.types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').unwrap();
                metrics.series.push((series.to_owned(), value.parse().unwrap()));
            }
        }
        metrics
    }

    /// The value of the only series of this name with these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let found = self.all(name, labels);
        let [value] = found[..] else { panic!("{name} with {labels:?}: {found:?}") };
        value
    }

    /// As [`Self::value`]; `None` if there is no such series.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.all(name, labels).first().copied()
    }

    fn all(&self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        let of = |series: &str| {
            let (found, rest) = series.split_once('{').unwrap_or((series, ""));
            found == name
                && labels.iter().all(|(label, value)| rest.contains(&format!("{label}=\"{value}\"")))
        };
        self.series.iter().filter(|(series, _)| of(series)).map(|(_, value)| *value).collect()
    }

    /// Every series of this name has just these labels, and a histogram's buckets their bound.
    #[track_caller]
    pub fn has_labels(&self, name: &str, labels: &[&str]) {
        let mut found = 0;
        for (series, _) in &self.series {
            let (of, rest) = series.split_once('{').unwrap_or((series, ""));
            let suffix = of.strip_prefix(name);
            if !matches!(suffix, Some("" | "_sum" | "_count" | "_bucket")) {
                continue;
            }
            let rest = rest.trim_end_matches('}');
            let names = rest.split("\",").filter_map(|label| Some(label.split_once('=')?.0));
            let mut names: Vec<_> = names.filter(|name| *name != "le").collect();
            names.sort_unstable();
            let mut labels = labels.to_vec();
            labels.sort_unstable();
            assert_eq!(names, labels, "{series}");
            found += 1;
        }
        assert_ne!(found, 0, "{name}");
    }

    #[track_caller]
    pub fn is(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let found = self.value(name, labels);
        assert!((found - value).abs() < 1e-9, "{name} {labels:?} is {found}, not {value}");
    }
}
