//! The nats-server that this executable carries, if `build.rs` was given one (`JETWAY_EMBED_NATS_SERVER`).

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, SealFlags};

/// A nats-server as it lies in this executable.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Carried {
    /// The version that its own build information names, as `2.15.1`.
    pub(super) version: &'static str,
    /// Of the unpacked program, in hexadecimal digits.
    pub(super) sha256: &'static str,
    pub(super) deflated: &'static [u8],
}

// `CARRIED`: the one of this build.
include!(concat!(env!("OUT_DIR"), "/carried.rs"));

/// A line for `--version` about the carried nats-server, if there is one.
pub fn carried_version() -> Option<String> {
    let carried = CARRIED.as_ref()?;
    Some(format!("carries nats-server {}, SHA-256 {}", carried.version, carried.sha256))
}

impl Carried {
    /// Unpacks into anonymous memory that nobody can change any more. It works where no folder may hold
    /// programs (`noexec`), and leaves no file. The memory belongs to the program: a child has none of it
    /// besides the program that it runs.
    ///
    /// # Errors
    /// Of the system; [`io::ErrorKind::InvalidData`] if it is damaged.
    pub(super) fn in_memory(&self) -> io::Result<OwnedFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Since Linux 6.3 a system may refuse to run memory without this flag. Older ones do not know it.
        let memory = match rustix::fs::memfd_create("nats-server", flags | MemfdFlags::EXEC) {
            Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create("nats-server", flags)?,
            created => created?,
        };
        let mut memory = File::from(memory);
        self.unpack(&mut memory)?;
        rustix::fs::fcntl_add_seals(
            &memory,
            SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
        )?;
        Ok(memory.into())
    }

    /// Unpacks into a file for this user alone, which replaces an older one. A program that runs from the
    /// older one goes on.
    ///
    /// # Errors
    /// As for [`Self::in_memory`].
    pub(super) fn in_file(&self, path: &Path) -> io::Result<()> {
        let part = path.with_extension("part");
        // One that a crash left over could have other rights.
        fs::remove_file(&part).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        let mut file = File::options().write(true).create_new(true).mode(0o700).open(&part)?;
        self.unpack(&mut file)?;
        drop(file);
        fs::rename(part, path)
    }

    fn unpack(&self, to: &mut File) -> io::Result<()> {
        let mut digest = Digest { to, context: ring::digest::Context::new(&ring::digest::SHA256) };
        io::copy(&mut flate2::read::DeflateDecoder::new(self.deflated), &mut digest)?;
        let found = super::hex(digest.context.finish().as_ref());
        if found == self.sha256 {
            return Ok(());
        }
        let message = format!("its SHA-256 is {found} and not {}: this jetway is damaged", self.sha256);
        Err(io::Error::new(io::ErrorKind::InvalidData, message))
    }
}

/// Computes the digest of the bytes on their way.
struct Digest<'a> {
    to: &'a mut File,
    context: ring::digest::Context,
}

impl Write for Digest<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.context.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// A program in memory.
#[derive(Debug)]
pub(super) struct InMemory {
    memory: OwnedFd,
    /// Exists only while the program is started.
    link: PathBuf,
}

impl InMemory {
    /// `link` is a path in a folder that belongs to this process.
    pub(super) fn new(memory: OwnedFd, link: PathBuf) -> Self {
        Self { memory, link }
    }

    /// Calls `start` with a path that a child of this process can execute. The kernel names a process after
    /// the path that was executed. So it is a link named nats-server, and not the number of a descriptor,
    /// wherever a link can be made.
    pub(super) fn start<T>(&self, start: impl FnOnce(&Path) -> T) -> T {
        // The child resolves it before the descriptor closes, and `self` is then the child.
        let memory = PathBuf::from(format!("/proc/self/fd/{}", self.memory.as_raw_fd()));
        // One that a crash left over, or the file of an earlier start.
        fs::remove_file(&self.link).ok();
        if std::os::unix::fs::symlink(&memory, &self.link).is_err() {
            return start(&memory);
        }
        let started = start(&self.link);
        fs::remove_file(&self.link).ok();
        started
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    /// A program of this machine, packed as `build.rs` packs it.
    fn packed(sha256: Option<&'static str>) -> Carried {
        let program = fs::read("/bin/sleep").unwrap();
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&program).unwrap();
        let digest = ring::digest::digest(&ring::digest::SHA256, &program);
        let digest = super::super::hex(digest.as_ref());
        Carried {
            version: "2.15.1",
            sha256: sha256.unwrap_or(Box::leak(digest.into_boxed_str())),
            deflated: Box::leak(encoder.finish().unwrap().into_boxed_slice()),
        }
    }

    #[test]
    fn a_program_in_memory_runs_under_its_name_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let program = InMemory::new(packed(None).in_memory().unwrap(), dir.path().join("nats-server"));
        // Twice: a server that has died is started again.
        for _ in 0..2 {
            let mut child = program.start(|path| Command::new(path).arg("10").spawn()).unwrap();
            let proc = PathBuf::from(format!("/proc/{}", child.id()));
            // The kernel lets this process go on a moment before the child has its name.
            let begun = std::time::Instant::now();
            let name = || fs::read_to_string(proc.join("comm")).unwrap();
            while name() != "nats-server\n" && begun.elapsed() < std::time::Duration::from_secs(10) {
                std::thread::yield_now();
            }
            assert_eq!(name(), "nats-server\n");
            // The child holds nothing of this process. It opens and closes libraries meanwhile.
            for descriptor in fs::read_dir(proc.join("fd")).unwrap() {
                let Ok(target) = fs::read_link(descriptor.unwrap().path()) else { continue };
                assert!(!target.to_string_lossy().contains("memfd"), "{}", target.display());
            }
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let gone = InMemory::new(packed(None).in_memory().unwrap(), dir.path().join("gone/nats-server"));
        assert!(gone.start(|path| Command::new(path).arg("0").status()).unwrap().success());
    }

    #[test]
    fn a_program_in_a_file_is_its_users_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nats-server");
        // Leftovers of other rights, and the link of a crash.
        fs::write(path.with_extension("part"), "").unwrap();
        std::os::unix::fs::symlink("/proc/self/fd/999", &path).unwrap();
        packed(None).in_file(&path).unwrap();
        assert_eq!(path.symlink_metadata().unwrap().permissions().mode() & 0o7777, 0o700);
        assert!(Command::new(&path).arg("0").status().unwrap().success());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_program_is_not_run() {
        let error = packed(Some("00")).in_memory().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("and not 00: this jetway is damaged"), "{error}");
    }

    #[test]
    fn memory_that_holds_a_program_cannot_be_changed() {
        let mut memory = File::from(packed(None).in_memory().unwrap());
        memory.write_all(b"x").unwrap_err();
        memory.set_len(0).unwrap_err();
    }
}
