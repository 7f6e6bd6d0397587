//! The log: its form, and where it goes.
//!
//! As JSON it has etcd's form, one object a line with `level`, `ts`, `caller`, `msg` and the fields, so that whatever
//! reads etcd's log reads this one.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use thiserror::Error;
use time::OffsetDateTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

const JOURNAL: &str = "/run/systemd/journal/socket";
const DAY: Duration = Duration::from_hours(24);

/// Form and place of the log.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// What is told, in the form of [`tracing_subscriber::EnvFilter`].
    pub filter: String,
    /// How it looks.
    pub format: LogFormat,
    /// Where it goes.
    pub outputs: Vec<LogOutput>,
    /// When a new file is begun; concerns the only file among `outputs`.
    pub rotation: Option<LogRotation>,
}

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object, in etcd's form.
    Json,
    /// For people.
    Console,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// The journal of systemd.
    Journal,
    /// The end of a file.
    File(PathBuf),
}

/// When a new file is begun and old ones go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRotation {
    /// A file does not grow beyond this.
    pub max_bytes: u64,
    /// Old files go after so many days; 0 for never.
    pub max_age_days: u64,
    /// So many old files stay; 0 for all.
    pub max_backups: usize,
}

/// A log that cannot be written.
#[derive(Debug, Error)]
#[error("--log-outputs {output}: {source}")]
pub struct LogError {
    output: String,
    source: io::Error,
}

/// Sets the log of the process up. To be called once.
pub fn init(settings: &LogSettings) -> Result<(), LogError> {
    let mut sinks = Vec::new();
    for output in &settings.outputs {
        sinks.push(Sink::open(output, settings.rotation)?);
    }
    // A log that is kept in a file or sent on has no use for colours.
    let colours = match settings.outputs[..] {
        [LogOutput::Stderr] => io::stderr().is_terminal(),
        [LogOutput::Stdout] => io::stdout().is_terminal(),
        _ => false,
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(&settings.filter))
        .with_writer(Sinks(Arc::new(Mutex::new(sinks))))
        .with_ansi(colours);
    match settings.format {
        LogFormat::Json => log.event_format(ZapJson).init(),
        LogFormat::Console => log.init(),
    }
    Ok(())
}

/// Lines in the form of etcd's log.
#[derive(Debug)]
struct ZapJson;

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
fn timestamp(now: OffsetDateTime) -> String {
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

#[derive(Debug)]
enum Sink {
    Stderr,
    Stdout,
    Journal(UnixDatagram),
    File(LogFile),
}

impl Sink {
    fn open(output: &LogOutput, rotation: Option<LogRotation>) -> Result<Sink, LogError> {
        match output {
            LogOutput::Stderr => Ok(Sink::Stderr),
            LogOutput::Stdout => Ok(Sink::Stdout),
            LogOutput::Journal => {
                let socket = UnixDatagram::unbound()
                    .and_then(|socket| socket.connect(JOURNAL).map(|()| socket))
                    .map_err(|source| LogError { output: "systemd/journal".into(), source })?;
                Ok(Sink::Journal(socket))
            }
            LogOutput::File(path) => LogFile::open(path, rotation)
                .map(Sink::File)
                .map_err(|source| LogError { output: path.display().to_string(), source }),
        }
    }

    fn write(&mut self, level: Level, line: &[u8]) -> io::Result<()> {
        match self {
            Sink::Stderr => io::stderr().write_all(line),
            Sink::Stdout => io::stdout().write_all(line),
            Sink::Journal(socket) => {
                let sent = socket.send(&journal_entry(level, line));
                // As etcd: what the journal does not take is not lost.
                if sent.is_ok() { Ok(()) } else { io::stderr().write_all(line) }
            }
            Sink::File(file) => file.write(line),
        }
    }
}

/// The journal's own form, with the length of the text before it since it may have several lines.
fn journal_entry(level: Level, line: &[u8]) -> Vec<u8> {
    let priority = match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    };
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    let mut entry = format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER=jetway\nMESSAGE\n").into_bytes();
    entry.extend((text.len() as u64).to_le_bytes());
    entry.extend(text);
    entry.push(b'\n');
    entry
}

/// A file that lines are added to.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    rotation: Option<LogRotation>,
}

impl LogFile {
    fn open(path: &Path, rotation: Option<LogRotation>) -> io::Result<LogFile> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(LogFile { path: path.to_owned(), file, bytes, rotation })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if let Some(rotation) = self.rotation
            && self.bytes > 0
            && self.bytes + line.len() as u64 > rotation.max_bytes
        {
            // A file that cannot be put aside goes on growing: a log too long is better than none.
            if let Err(error) = self.rotate(rotation) {
                writeln!(self.file, "the log cannot be rotated: {error}")?;
            }
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self, rotation: LogRotation) -> io::Result<()> {
        let time = timestamp(OffsetDateTime::now_utc()).replace(':', "-");
        let (stem, extension) = self.name_parts();
        std::fs::rename(&self.path, self.path.with_file_name(format!("{stem}-{time}{extension}")))?;
        *self = LogFile::open(&self.path, self.rotation)?;
        let mut backups = self.backups()?;
        // Their names begin with their time.
        backups.sort_by(|one, other| other.cmp(one));
        for (at, path) in backups.into_iter().enumerate() {
            let old = std::fs::metadata(&path).and_then(|file| file.modified());
            let age = old.ok().and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
            let too_old = rotation.max_age_days > 0
                && age > DAY * u32::try_from(rotation.max_age_days).unwrap_or(u32::MAX);
            let too_many = rotation.max_backups > 0 && at >= rotation.max_backups;
            if too_old || too_many {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn backups(&self) -> io::Result<Vec<PathBuf>> {
        let (stem, extension) = self.name_parts();
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut backups = Vec::new();
        for file in std::fs::read_dir(dir)? {
            let path = file?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let middle =
                name.strip_prefix(&format!("{stem}-")).and_then(|rest| rest.strip_suffix(&extension));
            if middle
                .is_some_and(|time| time.starts_with(|c: char| c.is_ascii_digit()) && time.ends_with('Z'))
            {
                backups.push(path);
            }
        }
        Ok(backups)
    }

    /// What stands before and after the time in the name of an old file.
    fn name_parts(&self) -> (String, String) {
        let stem = self.path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let extension = self.path.extension().map(|extension| format!(".{}", extension.to_string_lossy()));
        (stem, extension.unwrap_or_default())
    }
}

/// All places of the log; one line at a time.
#[derive(Clone)]
struct Sinks(Arc<Mutex<Vec<Sink>>>);

struct LineWriter<'a> {
    sinks: MutexGuard<'a, Vec<Sink>>,
    level: Level,
}

impl<'a> MakeWriter<'a> for Sinks {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter { sinks: self.0.lock().unwrap_or_else(PoisonError::into_inner), level: Level::INFO }
    }

    fn make_writer_for(&'a self, metadata: &tracing::Metadata<'_>) -> LineWriter<'a> {
        LineWriter { level: *metadata.level(), ..self.make_writer() }
    }
}

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        for sink in self.sinks.iter_mut() {
            sink.write(self.level, line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_put_aside_and_old_ones_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("etcd.log");
        let rotation = LogRotation { max_bytes: 10, max_age_days: 0, max_backups: 2 };
        let mut log = LogFile::open(&path, Some(rotation)).expect("opened");
        for line in ["one 67890", "two 67890", "three 7890", "four 67890"] {
            log.write(line.as_bytes()).expect("written");
        }
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "four 67890");
        let mut backups = log.backups().expect("listed");
        backups.sort();
        let texts: Vec<_> = backups.iter().map(|path| std::fs::read_to_string(path).expect("read")).collect();
        assert_eq!(texts, ["two 67890", "three 7890"]);
    }

    #[test]
    fn lines_have_the_form_of_etcd_s() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        let file = LogFile::open(&path, None).expect("opened");
        let sinks = Sinks(Arc::new(Mutex::new(vec![Sink::File(file)])));
        let log = tracing_subscriber::fmt().with_writer(sinks).event_format(ZapJson).finish();
        tracing::subscriber::with_default(log, || {
            tracing::warn!(count = 3, name = "a\"b", "it {} {}", "is", "\"so\"");
        });
        let line = std::fs::read_to_string(&path).expect("there");
        let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((&line["level"], &line["msg"]), (&"warn".into(), &"it is \"so\"".into()));
        assert_eq!((&line["count"], &line["name"]), (&3.into(), &"a\"b".into()));
        assert!(
            line["caller"].as_str().is_some_and(|caller| caller.starts_with("telemetry/log.rs:")),
            "{line}"
        );
        assert!(line["ts"].as_str().is_some_and(|ts| ts.len() == 27 && ts.ends_with('Z')), "{line}");
    }

    #[test]
    fn a_journal_entry_may_have_several_lines() {
        let entry = journal_entry(Level::WARN, b"a\nb\n");
        let text = b"PRIORITY=4\nSYSLOG_IDENTIFIER=jetway\nMESSAGE\n\x03\0\0\0\0\0\0\0a\nb\n";
        assert_eq!(entry, text);
    }
}
