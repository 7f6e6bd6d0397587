//! The data directory: its locks (N1, N2), the mode of its store (N5) and the free room.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Error;
use super::signal::signal;
use crate::disk;

#[derive(Debug)]
pub(super) struct DataDir {
    /// Absolute, without symbolic links: it is compared with the command line of a process.
    path: PathBuf,
    /// Held for as long as this lives (N1). The file stays: removing it would let two holders lock two files.
    lock: File,
}

/// The right to run a server on the store (N2). Handed to the child as its standard output, and so released
/// by the kernel when the child is gone. Opened read-only, so that nothing the child prints can overwrite the
/// record inside.
#[derive(Debug)]
pub(super) struct StoreLock(File);

impl StoreLock {
    pub(super) fn into_file(self) -> File {
        self.0
    }
}

/// The mode in which a store is run (N5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Standalone,
    Clustered,
}

/// The file in which the mode of a store is recorded.
pub(super) const MODE_FILE: &str = "mode";

impl Mode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Standalone => "standalone",
            Self::Clustered => "clustered",
        }
    }
}

impl DataDir {
    /// Creates the directory if need be and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |action| move |source| Error::DataDir { action, path: path.to_owned(), source };
        if !path.is_dir() {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(failed("create the data directory"))?;
            }
            DirBuilder::new().mode(0o700).create(path).map_err(failed("create the data directory"))?;
        }
        let path = path.canonicalize().map_err(failed("open the data directory"))?;
        if path.to_str().is_none() {
            return Err(Error::PathNotText { path });
        }
        let lock_path = path.join("jetway.lock");
        let lock = private_file().truncate(false).open(&lock_path).map_err(failed("write to"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(&lock_path).unwrap_or_default();
                let holder = holder.trim();
                let holder = if holder.is_empty() { "unknown" } else { holder }.to_owned();
                return Err(Error::Locked { path, holder });
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
        }
        lock.set_len(0).map_err(failed("write to"))?;
        let dir = Self { path, lock };
        if !dir.has_room() {
            dir.spend_reserve();
        }
        dir.with_reserve(|| writeln!(&dir.lock, "{}", std::process::id())).map_err(failed("write to"))?;
        Ok(dir)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn config_path(&self) -> PathBuf {
        self.path.join("nats-server.conf")
    }

    /// JetStream appends `jetstream/` to it.
    pub(super) fn store_path(&self) -> PathBuf {
        super::store_dir(&self.path)
    }

    fn store_lock_path(&self) -> PathBuf {
        self.path.join("nats-server.lock")
    }

    pub(super) fn error(&self, action: &'static str, path: &Path, source: io::Error) -> Error {
        debug_assert!(path.starts_with(&self.path));
        Error::DataDir { action, path: path.to_owned(), source }
    }

    /// [`replace_private`] on a file of the directory, which may take the room of the reserve.
    pub(super) fn write_private(&self, path: &Path, text: &str) -> Result<(), Error> {
        self.with_reserve(|| replace_private(path, text)).map_err(|source| self.error("write", path, source))
    }

    /// Writes, and once more in the room of the reserve if the disk is full: a server that does not start can
    /// delete nothing.
    pub(super) fn with_reserve<T>(&self, write: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match write() {
            Err(error) if disk::is_full_error(&error) && self.spend_reserve() => write(),
            written => written,
        }
    }

    fn running_path(&self) -> PathBuf {
        self.path.join("nats-server.running")
    }

    /// Notes on stable storage that a server runs on the store from now on.
    pub(super) fn note_start(&self) -> Result<(), Error> {
        self.write_private(&self.running_path(), "")
    }

    /// Notes that the server on the store has stopped. Best effort: without it the next start takes the
    /// server for one that was killed, which costs that start some time.
    pub(super) fn note_stop(&self) {
        fs::remove_file(self.running_path()).ok();
    }

    /// Whether the last server on the store has ended without a stop.
    pub(super) fn was_killed(&self) -> bool {
        self.running_path().exists()
    }

    /// Removes the ports files of servers that were killed. Best effort: a reader looks for one process's
    /// file only.
    pub(super) fn remove_ports_files(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "ports") {
                fs::remove_file(entry.path()).ok();
            }
        }
    }

    /// Records the mode of the store, or refuses another one (N5).
    pub(super) fn claim_mode(&self, wanted: Mode) -> Result<(), Error> {
        let path = self.path.join(MODE_FILE);
        let recorded = match fs::read_to_string(&path) {
            Ok(text) => Some(text.trim().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.mode_of_store(),
            Err(source) => return Err(self.error("read", &path, source)),
        };
        match recorded {
            Some(recorded) if recorded != wanted.name() => {
                Err(Error::ModeMismatch { path: self.path.clone(), recorded, wanted: wanted.name().into() })
            }
            Some(_) if path.exists() => Ok(()),
            _ => self.set_mode(wanted),
        }
    }

    /// Records another mode of the store, whose files must be fit for both.
    pub(super) fn set_mode(&self, mode: Mode) -> Result<(), Error> {
        self.write_private(&self.path.join(MODE_FILE), &format!("{}\n", mode.name()))
    }

    /// The mode of an existing store without a record, by its files: a clustered server keeps its Raft groups
    /// in it.
    fn mode_of_store(&self) -> Option<String> {
        let store = self.store_path().join("jetstream");
        let mode = if store.join("$SYS/_js_").exists() { Mode::Clustered } else { Mode::Standalone };
        store.exists().then(|| mode.name().to_owned())
    }

    /// Takes the store's lock. A server left over from an earlier jetway holds it for as long as it writes
    /// its index: it is asked to stop, and killed after `timeout`.
    pub(super) async fn lock_store(&self, timeout: Duration) -> Result<StoreLock, Error> {
        const POLL: Duration = Duration::from_millis(20);
        /// A killed process is gone once the kernel has torn it down; longer means it hangs in the kernel.
        const AFTER_KILL: Duration = Duration::from_secs(10);

        let path = self.store_lock_path();
        let failed = |source| self.error("lock", &path, source);
        private_file().truncate(false).open(&path).map_err(failed)?;
        let file = File::open(&path).map_err(failed)?;
        let started = Instant::now();
        let (mut asked, mut killed) = (false, false);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(StoreLock(file)),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
                Err(TryLockError::WouldBlock) => {}
            }
            let holder = Holder::read(&path);
            let ours = holder.as_ref().filter(|holder| holder.is_running(&self.config_path()));
            if !asked {
                asked = true;
                let pid = ours.map(|holder| holder.pid);
                tracing::warn!(
                    pid,
                    "a nats-server of an earlier jetway still holds the store; waiting for its end"
                );
                if let Some(holder) = ours {
                    signal(holder.pid, libc::SIGTERM).ok();
                }
            }
            if !killed && started.elapsed() >= timeout {
                killed = true;
                if let Some(holder) = ours {
                    tracing::error!(pid = holder.pid, "it did not end within {timeout:?}; killing it");
                    signal(holder.pid, libc::SIGKILL).ok();
                }
            }
            if started.elapsed() >= timeout + AFTER_KILL {
                let holder = holder.map_or_else(|| "unknown".into(), |holder| holder.pid.to_string());
                return Err(Error::StoreHeld { lock: path, holder, after: started.elapsed() });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Records in the store's lock file which process holds it.
    pub(super) fn record_holder(&self, pid: u32) -> io::Result<()> {
        let start_ticks = start_ticks(pid).unwrap_or_default();
        let mut file = private_file().truncate(true).open(self.store_lock_path())?;
        writeln!(file, "{pid} {start_ticks}")
    }

    fn reserve_path(&self) -> PathBuf {
        reserve_path(&self.path)
    }

    /// Reserves room for the time when the disk is full, if there is plenty now. Best effort: without the
    /// reserve, other files must be removed from a full disk before anything can be written.
    pub(super) fn keep_reserve(&self) {
        let path = self.reserve_path();
        let Some(space) = disk::space(&self.path) else { return };
        let bytes = disk::headroom(space.total);
        if path.exists() || space.free < 3 * bytes {
            return;
        }
        let kept = private_file().create_new(true).open(&path).and_then(|file| disk::reserve(&file, bytes));
        if let Err(error) = kept {
            tracing::debug!(%error, "the file reserve cannot be made; no room is kept for a full disk");
            fs::remove_file(&path).ok();
        }
    }

    /// Frees the reserve. Returns whether there was one.
    pub(super) fn spend_reserve(&self) -> bool {
        spend_reserve(&self.path)
    }

    /// Whether there is enough room for a server: half of the reserve, since less would be full again at
    /// once.
    pub(super) fn has_room(&self) -> bool {
        disk::space(&self.path).is_none_or(|space| space.free >= disk::headroom(space.total) / 2)
    }
}

fn reserve_path(dir: &Path) -> PathBuf {
    dir.join("reserve")
}

/// Frees the reserve in a data directory. Returns whether there was one.
pub(crate) fn spend_reserve(dir: &Path) -> bool {
    let is_spent = fs::remove_file(reserve_path(dir)).is_ok();
    if is_spent {
        tracing::warn!("the disk is full; the file reserve is deleted to make room");
    }
    is_spent
}

/// Writes a file that only this user may read. It replaces the old file, which may have other permissions.
/// After a power cut the new file is complete or does not exist.
pub(super) fn replace_private(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private_file().create_new(true).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    options
}

/// The process that the store's lock file names. A pid alone may have been given to another process since:
/// the start time and the command line must fit too.
#[derive(Debug)]
struct Holder {
    pid: u32,
    start_ticks: u64,
}

impl Holder {
    fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let (pid, start_ticks) = text.trim().split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, start_ticks: start_ticks.parse().ok()? })
    }

    fn is_running(&self, config: &Path) -> bool {
        let command_line = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let names_config =
            command_line.split(|&byte| byte == 0).any(|arg| arg == config.as_os_str().as_bytes());
        names_config && start_ticks(self.pid) == Some(self.start_ticks)
    }
}

/// Start time of a process, in clock ticks since boot.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name, in parentheses, may itself hold spaces and parentheses. The start time is field 22 of
    // all, the twentieth after the name.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_directory_names_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        let refused = DataDir::open(dir.path()).unwrap_err();
        assert!(
            matches!(&refused, Error::Locked { holder, .. } if *holder == std::process::id().to_string()),
            "{refused}"
        );
        drop(first);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn a_full_disk_takes_the_reserve_once() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let write = || if data.reserve_path().exists() { Err(full()) } else { Ok(()) };
        fs::write(data.reserve_path(), "").unwrap();
        data.with_reserve(|| Err::<(), _>(io::Error::from(io::ErrorKind::PermissionDenied))).unwrap_err();
        assert!(data.reserve_path().exists(), "another error needs no room");
        data.with_reserve(write).unwrap();
        data.with_reserve(|| Err::<(), _>(full())).unwrap_err();
    }

    #[test]
    fn the_directory_is_created_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let wanted = dir.path().join("parent/data");
        DataDir::open(&wanted).unwrap();
        assert_eq!(wanted.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_store_keeps_the_mode_it_was_created_in() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        data.claim_mode(Mode::Standalone).unwrap();
        data.claim_mode(Mode::Standalone).unwrap();
        let refused = data.claim_mode(Mode::Clustered).unwrap_err().to_string();
        assert!(
            refused.contains("created standalone") && refused.contains("delete its streams"),
            "{refused}"
        );

        fs::remove_file(dir.path().join("mode")).unwrap();
        fs::create_dir_all(dir.path().join("nats/jetstream/$SYS/_js_")).unwrap();
        data.claim_mode(Mode::Standalone).unwrap_err();
        data.claim_mode(Mode::Clustered).unwrap();
    }

    #[test]
    fn another_process_is_not_taken_for_the_holder() {
        let me = std::process::id();
        let holder = Holder { pid: me, start_ticks: start_ticks(me).unwrap() };
        assert!(!holder.is_running(Path::new("/no/such/nats-server.conf")));
    }
}
