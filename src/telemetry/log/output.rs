//! The outputs of the log.
//!
//! Lines for systemd's journal are written by hand: `tracing-journald` makes a field of the journal of each
//! field of an event, and etcd writes the whole line as the message.

use super::file::{LogFile, LogRotation};
use super::{LogError, LogOutput};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;

const JOURNAL: &str = "/run/systemd/journal/socket";

#[derive(Debug)]
pub(super) enum Output {
    Stderr,
    Stdout,
    Journal(UnixDatagram),
    File(LogFile),
}

impl Output {
    /// # Errors
    /// [`LogError`].
    pub(super) fn open(output: &LogOutput, rotation: Option<LogRotation>) -> Result<Output, LogError> {
        match output {
            LogOutput::Stderr => Ok(Output::Stderr),
            LogOutput::Stdout => Ok(Output::Stdout),
            LogOutput::Journal => {
                let socket = UnixDatagram::unbound()
                    .and_then(|socket| socket.connect(JOURNAL).map(|()| socket))
                    .map_err(|source| LogError::Output { output: "systemd/journal".into(), source })?;
                Ok(Output::Journal(socket))
            }
            LogOutput::File(path) => LogFile::open(path, rotation)
                .map(Output::File)
                .map_err(|source| LogError::Output { output: path.display().to_string(), source }),
        }
    }

    fn write(&mut self, level: Level, line: &[u8]) -> io::Result<()> {
        match self {
            Output::Stderr => io::stderr().write_all(line),
            Output::Stdout => io::stdout().write_all(line),
            Output::Journal(socket) => {
                let sent = socket.send(&journal_entry(level, line));
                // As in etcd: a line that the journal refuses is not lost.
                if sent.is_ok() { Ok(()) } else { io::stderr().write_all(line) }
            }
            Output::File(file) => file.write(line),
        }
    }
}

/// The journal's own form. The length of the text stands before it, because it may have several lines.
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

/// All outputs. They get one line at a time.
#[derive(Clone)]
pub(super) struct Outputs(Arc<Mutex<Vec<Output>>>);

impl Outputs {
    pub(super) fn new(outputs: Vec<Output>) -> Outputs {
        Outputs(Arc::new(Mutex::new(outputs)))
    }
}

pub(super) struct LineWriter<'a> {
    outputs: MutexGuard<'a, Vec<Output>>,
    level: Level,
}

impl<'a> MakeWriter<'a> for Outputs {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter { outputs: self.0.lock().unwrap_or_else(PoisonError::into_inner), level: Level::INFO }
    }

    fn make_writer_for(&'a self, metadata: &tracing::Metadata<'_>) -> LineWriter<'a> {
        LineWriter { level: *metadata.level(), ..self.make_writer() }
    }
}

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        for output in self.outputs.iter_mut() {
            output.write(self.level, line)?;
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
    fn a_journal_entry_may_have_several_lines() {
        let entry = journal_entry(Level::WARN, b"a\nb\n");
        let text = b"PRIORITY=4\nSYSLOG_IDENTIFIER=jetway\nMESSAGE\n\x03\0\0\0\0\0\0\0a\nb\n";
        assert_eq!(entry, text);
    }
}
