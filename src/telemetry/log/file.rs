//! A log file, and its rotation.
//!
//! etcd rotates with lumberjack, whose settings stand in `--log-rotation-config-json`: a file is renamed
//! before it grows beyond a size, and old files are removed by their age and by their number. No crate does
//! all of this. `tracing-appender` rotates by time only (tokio-rs/tracing issue 1940), and `rolling-file`
//! knows no age. `file-rotate` removes by age or by number and not by both, cuts lines at the size or lets
//! the file exceed it, and panics if the directory cannot be read.

use super::zap::timestamp;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;

const DAY: Duration = Duration::from_hours(24);

/// When a new file begins, and when old files are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRotation {
    /// The largest size of a file.
    pub max_bytes: u64,
    /// Age in days at which old files are removed; 0 for never.
    pub max_age_days: u64,
    /// The number of old files that stay; 0 for all.
    pub max_backups: usize,
}

/// A file, to whose end lines are appended.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    rotation: Option<LogRotation>,
}

impl LogFile {
    pub(super) fn open(path: &Path, rotation: Option<LogRotation>) -> io::Result<LogFile> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(LogFile { path: path.to_owned(), file, bytes, rotation })
    }

    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if let Some(rotation) = self.rotation
            && self.bytes > 0
            && self.bytes + line.len() as u64 > rotation.max_bytes
        {
            // A file that cannot be renamed keeps growing: a log too long is better than none.
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

    /// The parts of the name of an old file before and after the time.
    fn name_parts(&self) -> (String, String) {
        let stem = self.path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let extension = self.path.extension().map(|extension| format!(".{}", extension.to_string_lossy()));
        (stem, extension.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_renamed_and_old_ones_are_removed() {
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
}
