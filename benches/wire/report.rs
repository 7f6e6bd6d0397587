//! From samples to tables, plots and JSON.

use crate::load::Timing;
use crate::machine::Facts;
use crate::peer::{Installation, Kind};
use crate::plot::{self, Panel};
use crate::sample::{Metric, Sample, figure, micros};
use crate::workload::{Shape, Workload};
use serde_json::{Value, json};
use std::fmt::{self, Write};
use std::path::Path;

/// All samples of a run.
#[derive(Debug)]
pub(crate) struct Report {
    facts: Facts,
    timing: Timing,
    rounds: usize,
    /// The servers that each peer consists of.
    members: usize,
    peers: Vec<Description>,
    /// Index of the peer that the others are compared with: etcd, if it takes part.
    base: usize,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Description {
    kind: Kind,
    label: String,
    version: String,
    durability: String,
}

#[derive(Debug)]
struct Row {
    workload: &'static str,
    what: String,
    unit: &'static str,
    is_load: bool,
    /// By peer.
    cells: Vec<Cell>,
}

/// The results of a peer in a workload.
#[derive(Clone, Debug, Default)]
struct Cell {
    samples: Vec<Sample>,
    /// Why there are no figures, or no more of them.
    missing: Option<String>,
}

impl Cell {
    /// The mean of the rounds; of a peak the highest. Nothing once a round has failed.
    fn figure(&self, metric: Metric) -> Option<f64> {
        if self.missing.is_some() {
            return None;
        }
        let figures: Vec<f64> =
            self.samples.iter().filter_map(|sample| sample.figures.get(&metric).copied()).collect();
        let highest = figures.iter().copied().reduce(f64::max)?;
        if metric == Metric::Peak {
            return Some(highest);
        }
        Some(figures.iter().sum::<f64>() / figures.len() as f64)
    }

    /// How far the rounds lie apart: from the slowest to the fastest, in percent of the slowest.
    fn spread(&self) -> Option<f64> {
        let rates = || self.samples.iter().filter_map(|sample| sample.figures.get(&Metric::Rate).copied());
        let (least, most) = (rates().reduce(f64::min)?, rates().reduce(f64::max)?);
        (self.samples.len() > 1).then(|| 100.0 * (most - least) / least)
    }
}

impl Row {
    fn panel(&self, metric: Metric, title: String) -> Panel {
        let bars = self.cells.iter().map(|cell| cell.figure(metric).map(|number| (number, figure(number))));
        Panel { title, bars: bars.collect() }
    }
}

impl Report {
    pub(crate) fn new(
        facts: Facts,
        timing: Timing,
        rounds: usize,
        members: usize,
        installations: &[Installation],
    ) -> Self {
        let describe = |installation: &Installation| Description {
            kind: installation.kind,
            label: installation.label.clone(),
            version: installation.version.clone(),
            durability: String::new(),
        };
        let base = installations.iter().position(|peer| peer.kind == Kind::Etcd).unwrap_or(0);
        Self {
            facts,
            timing,
            rounds,
            members,
            peers: installations.iter().map(describe).collect(),
            base,
            rows: Vec::new(),
        }
    }

    /// Begins a row. `what` is the work, in a line.
    pub(crate) fn begin(&mut self, workload: &Workload, what: String) {
        self.rows.push(Row {
            workload: workload.name,
            what,
            unit: workload.unit,
            is_load: matches!(workload.shape, Shape::Load(..)),
            cells: vec![Cell::default(); self.peers.len()],
        });
    }

    /// Adds what a peer has shown to the last row: figures, or why there are none.
    pub(crate) fn add(&mut self, at: usize, shown: Result<Sample, String>) {
        let cell = self.rows.last_mut().map(|row| &mut row.cells[at]);
        let cell = cell.expect("a row has begun");
        match shown {
            Ok(sample) => {
                self.peers[at].durability.clone_from(&sample.durability);
                cell.samples.push(sample);
            }
            Err(reason) => cell.missing = Some(reason),
        }
    }

    /// Whether the peer has failed in the last row, so that it is not asked again.
    pub(crate) fn has_failed(&self, at: usize) -> bool {
        self.rows.last().is_some_and(|row| row.cells[at].missing.is_some())
    }

    /// The workloads that jetway has failed in.
    pub(crate) fn failures_of_jetway(&self) -> Vec<&'static str> {
        let failed = |row: &&Row| {
            let mut cells = self.peers.iter().zip(&row.cells);
            cells.any(|(peer, cell)| peer.kind == Kind::Jetway && cell.missing.is_some())
        };
        self.rows.iter().filter(failed).map(|row| row.workload).collect()
    }

    /// Writes everything into a folder; of clusters there are no plots.
    pub(crate) fn write(&self, folder: &Path) -> std::io::Result<()> {
        let is_cluster = self.members > 1;
        let name = if is_cluster { "cluster" } else { "results" };
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join(name).with_extension("json"), format!("{:#}\n", self.json()))?;
        std::fs::write(folder.join(name).with_extension("md"), self.markdown())?;
        if is_cluster { Ok(()) } else { self.write_plots(folder) }
    }

    fn write_plots(&self, folder: &Path) -> std::io::Result<()> {
        for (name, metric, better) in [
            ("operations.svg", Metric::Rate, "more is better"),
            ("cpu.svg", Metric::ServerCpu, "less is better"),
            ("p50.svg", Metric::P50, "less is better"),
            ("p99.svg", Metric::P99, "less is better"),
        ] {
            let rows = self.rows.iter().filter(|row| row.is_load);
            let panels: Vec<Panel> = rows.map(|row| row.panel(metric, row.workload.to_owned())).collect();
            self.write_plot(&folder.join(name), &format!("{}; {better}", metric.title()), &panels)?;
        }
        let mut panels = Vec::new();
        for row in self.rows.iter().filter(|row| !row.is_load) {
            for (metric, unit) in [
                (Metric::Start, "start, seconds"),
                (Metric::StartCpu, "start, CPU seconds"),
                (Metric::Memory, "memory, MiB"),
            ] {
                panels.push(row.panel(metric, format!("{}: {unit}", row.workload)));
            }
        }
        self.write_plot(&folder.join("store.svg"), "A store that holds much; less is better", &panels)
    }

    fn write_plot(&self, file: &Path, title: &str, panels: &[Panel]) -> std::io::Result<()> {
        if panels.is_empty() {
            return Ok(());
        }
        let labels: Vec<&str> = self.peers.iter().map(|peer| peer.label.as_str()).collect();
        std::fs::write(file, plot::svg(title, &self.machine(), &labels, panels))
    }

    pub(crate) fn json(&self) -> Value {
        let facts = &self.facts;
        let peers = self.peers.iter().map(
            |peer| json!({ "name": peer.label, "version": peer.version, "durability": peer.durability }),
        );
        let rows = self.rows.iter().map(|row| {
            let peers = self.peers.iter().zip(&row.cells).map(|(peer, cell)| {
                let rounds: Vec<Value> = cell.samples.iter().map(Sample::json).collect();
                json!({ "name": peer.label, "rounds": rounds, "missing": cell.missing })
            });
            let peers: Vec<Value> = peers.collect();
            json!({ "workload": row.workload, "what": row.what, "unit": row.unit, "peers": peers })
        });
        json!({
            "machine": {
                "processor": facts.processor,
                "cores": facts.cores,
                "memory_mib": facts.memory_mib,
                "kernel": facts.kernel,
                "file_system": facts.file_system,
                "fsync_p50_us": micros(facts.fsync_p50),
                "fsync_p99_us": micros(facts.fsync_p99),
                "load_before": facts.load,
            },
            "seconds": self.timing.sample.as_secs_f64(),
            "warm_up_seconds": self.timing.warm_up.as_secs_f64(),
            "rounds": self.rounds,
            "members": self.members,
            "peers": peers.collect::<Vec<_>>(),
            "workloads": rows.collect::<Vec<_>>(),
        })
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        self.write_markdown(&mut text).expect("a String takes all that is written");
        text
    }

    fn machine(&self) -> String {
        let facts = &self.facts;
        format!(
            "{}, {} cores, {} MiB, Linux {}, {}; an append of 1 KiB with fsync takes {} µs (p99 {} µs); load {} before the run.",
            facts.processor,
            facts.cores,
            facts.memory_mib,
            facts.kernel,
            facts.file_system,
            figure(micros(facts.fsync_p50)),
            figure(micros(facts.fsync_p99)),
            facts.load
        )
    }

    fn write_markdown(&self, text: &mut String) -> fmt::Result {
        writeln!(text, "{}", self.machine())?;
        writeln!(
            text,
            "{} rounds of {} s after {} s of warm-up, peers in turn, a fresh {} for each; client and server on the same cores.",
            self.rounds,
            self.timing.sample.as_secs_f64(),
            self.timing.warm_up.as_secs_f64(),
            if self.members > 1 { format!("cluster of {}", self.members) } else { "server".into() }
        )?;
        let mut spreads: Vec<f64> =
            self.rows.iter().flat_map(|row| &row.cells).filter_map(Cell::spread).collect();
        spreads.sort_by(f64::total_cmp);
        if let (Some(middle), Some(most)) = (spreads.get(spreads.len() / 2), spreads.last()) {
            writeln!(
                text,
                "Fastest and slowest round of a cell lie {middle:.0} % apart in the middle, {most:.0} % at most."
            )?;
        }
        writeln!(text)?;
        for peer in &self.peers {
            writeln!(text, "- {} {}: {}", peer.label, peer.version, peer.durability)?;
        }
        writeln!(text, "\nIn parentheses the ratio to {}.", self.peers[self.base].label)?;
        for metric in Metric::ALL {
            self.write_table(text, metric)?;
        }
        writeln!(text)?;
        for row in &self.rows {
            writeln!(text, "- `{}`: {}; an operation is one {}", row.workload, row.what, row.unit)?;
            for (peer, cell) in self.peers.iter().zip(&row.cells) {
                if let Some(reason) = &cell.missing {
                    let reason = reason.lines().next().unwrap_or_default();
                    writeln!(text, "  - {}: – because {reason}", peer.label)?;
                } else if let Some(sample) = cell.samples.last().filter(|sample| !sample.note.is_empty()) {
                    writeln!(text, "  - {}: {}", peer.label, sample.note)?;
                }
            }
        }
        Ok(())
    }

    /// One metric of all workloads that have it, a column for each peer.
    fn write_table(&self, text: &mut String, metric: Metric) -> fmt::Result {
        let has = |row: &&Row| row.cells.iter().any(|cell| cell.figure(metric).is_some());
        let rows: Vec<&Row> = self.rows.iter().filter(has).collect();
        if rows.is_empty() {
            return Ok(());
        }
        write!(text, "\n**{}**\n\n| workload |", metric.title())?;
        for peer in &self.peers {
            write!(text, " {} |", peer.label)?;
        }
        writeln!(text, "\n|---|{}", "--:|".repeat(self.peers.len()))?;
        for row in rows {
            write!(text, "| {} |", row.workload)?;
            let base = row.cells[self.base].figure(metric);
            for (at, cell) in row.cells.iter().enumerate() {
                match (cell.figure(metric), base) {
                    (None, _) => write!(text, " – |")?,
                    (Some(number), Some(base)) if at != self.base && base > 0.0 => {
                        write!(text, " {} ({:.2}) |", figure(number), number / base)?;
                    }
                    (Some(number), _) => write!(text, " {} |", figure(number))?,
                }
            }
            writeln!(text)?;
        }
        Ok(())
    }
}
