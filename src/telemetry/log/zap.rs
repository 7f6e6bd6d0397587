//! The form of etcd's log, which is zap's: one JSON object a line with `level`, `ts`, `caller`, `msg` and the
//! fields. Programs that read etcd's log read this one. The JSON of `tracing-subscriber` has other names and
//! nested fields.

use std::fmt::{self, Write as _};
use time::OffsetDateTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Lines in the form of etcd's log.
#[derive(Debug)]
pub(super) struct ZapJson;

impl<S, N> FormatEvent<S, N> for ZapJson
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let level = match *metadata.level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG | Level::TRACE => "debug",
        };
        let mut fields = JsonFields::default();
        event.record(&mut fields);
        write!(line, r#"{{"level":"{level}","ts":"{}""#, timestamp(OffsetDateTime::now_utc()))?;
        if let (Some(file), Some(at)) = (metadata.file(), metadata.line()) {
            // As zap: the file with its directory only.
            let start = file.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at + 1);
            write!(line, r#","caller":"{}:{at}""#, &file[start..])?;
        }
        writeln!(line, r#","msg":{}{}}}"#, quoted(&fields.message), fields.rest)
    }
}

/// As zap writes it: UTC, with microseconds.
pub(super) fn timestamp(now: OffsetDateTime) -> String {
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        now.year(),
        u8::from(now.month()),
        now.day(),
        now.hour(),
        now.minute(),
        now.second(),
        now.microsecond()
    )
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[derive(Default)]
struct JsonFields {
    message: String,
    rest: String,
}

impl JsonFields {
    fn put(&mut self, field: &Field, value: &dyn fmt::Display) {
        write!(self.rest, ",{}:{value}", quoted(field.name())).expect("a string takes everything");
    }
}

impl Visit for JsonFields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.put(field, &quoted(&format!("{value:?}")));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, &quoted(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, &value);
    }
}

#[cfg(test)]
mod tests {
    use super::super::output::{Output, Outputs};
    use super::super::{LogOutput, LogRotation};
    use super::*;

    #[test]
    fn lines_have_the_form_of_etcd_s() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        let output = Output::open(&LogOutput::File(path.clone()), None::<LogRotation>).expect("opened");
        let log =
            tracing_subscriber::fmt().with_writer(Outputs::new(vec![output])).event_format(ZapJson).finish();
        tracing::subscriber::with_default(log, || {
            tracing::warn!(count = 3, name = "a\"b", "it {} {}", "is", "\"so\"");
        });
        let line = std::fs::read_to_string(&path).expect("there");
        let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((&line["level"], &line["msg"]), (&"warn".into(), &"it is \"so\"".into()));
        assert_eq!((&line["count"], &line["name"]), (&3.into(), &"a\"b".into()));
        assert!(line["caller"].as_str().is_some_and(|caller| caller.starts_with("log/zap.rs:")), "{line}");
        assert!(line["ts"].as_str().is_some_and(|ts| ts.len() == 27 && ts.ends_with('Z')), "{line}");
    }
}
