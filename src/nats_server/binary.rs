//! Finds a nats-server, and refuses one that is too old.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use super::Error;
use super::carried::{self, Carried, InMemory};
use crate::version::NatsVersion;

const ENV: &str = "JETWAY_NATS_SERVER";
const NAME: &str = "nats-server";

/// The version in `nats-server: v2.15.1`, and its text.
fn parse(output: &str) -> Option<(NatsVersion, String)> {
    let text = output.trim().strip_prefix("nats-server: v")?.split_whitespace().next()?;
    Some((NatsVersion::parse(text)?, text.to_owned()))
}

/// A nats-server that is new enough.
#[derive(Debug)]
pub(super) struct Binary {
    program: Program,
    /// As `2.15.1`.
    pub(super) version: String,
    /// For the log: its path, or its digest if it is the carried one.
    pub(super) origin: String,
}

#[derive(Debug)]
enum Program {
    File(PathBuf),
    Memory(InMemory),
}

/// A nats-server that was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<File> {
    File(File),
    /// In this executable.
    Carried(&'static Carried),
}

/// Finds the binary to run. A file is checked at once. The carried one is checked when it is unpacked, which
/// may need the data directory.
pub(super) async fn find(flag: Option<&Path>) -> Result<Found<Binary>, Error> {
    match locate(flag)? {
        Found::File(path) => {
            let origin = path.display().to_string();
            Ok(Found::File(Binary::new(Program::File(path), origin).await?))
        }
        Found::Carried(carried) => Ok(Found::Carried(carried)),
    }
}

/// The binary to run: that of `flag`, of the environment, the carried one, beside this executable, or in
/// `PATH`. A named path that does not exist is an error, and no reason to look further.
fn locate(flag: Option<&Path>) -> Result<Found<PathBuf>, Error> {
    if let Some(path) = flag {
        return named(path.to_owned(), "--nats-server");
    }
    if let Some(path) = std::env::var_os(ENV).filter(|path| !path.is_empty()) {
        return named(path.into(), ENV);
    }
    if let Some(carried) = &carried::CARRIED {
        return Ok(Found::Carried(carried));
    }
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(NAME)));
    let search = std::env::var_os("PATH");
    first_executable(beside, search.as_deref()).map(Found::File).ok_or_else(|| Error::BinaryNotFound {
        searched: format!(
            "neither --nats-server nor {ENV} is set, this jetway carries none, and none is beside the jetway executable or \
             on PATH"
        ),
    })
}

impl Found<Binary> {
    /// The binary, ready to run. `dir` belongs to this process.
    pub(super) async fn unpacked(self, dir: &Path) -> Result<Binary, Error> {
        match self {
            Found::File(binary) => Ok(binary),
            Found::Carried(carried) => Binary::carried(carried, dir).await,
        }
    }
}

impl Binary {
    /// The carried one: from memory, or else from a file in `dir`.
    async fn carried(carried: &Carried, dir: &Path) -> Result<Self, Error> {
        let origin = format!("carried, SHA-256 {}", carried.sha256);
        let path = dir.join(NAME);
        let unusable = |source| Error::BinaryUnusable { path: path.clone(), source };
        let refused = match carried.in_memory() {
            Ok(memory) => {
                let program = Program::Memory(InMemory::new(memory, path.clone()));
                match Self::new(program, origin.clone()).await {
                    Err(Error::BinaryUnusable { source, .. }) => source,
                    checked => return checked,
                }
            }
            Err(damaged) if damaged.kind() == ErrorKind::InvalidData => return Err(unusable(damaged)),
            Err(error) => error,
        };
        tracing::warn!(
            error = %refused,
            file = %path.display(),
            "the system does not let the carried nats-server run from memory; it runs from a file"
        );
        carried.in_file(&path).map_err(unusable)?;
        Self::new(Program::File(path), origin).await
    }

    async fn new(program: Program, origin: String) -> Result<Self, Error> {
        let mut binary = Self { program, version: String::new(), origin };
        binary.version = binary.check_version().await?;
        Ok(binary)
    }

    /// Calls `start` with a path that a child of this process can execute.
    pub(super) fn start<T>(&self, start: impl FnOnce(&Path) -> T) -> T {
        match &self.program {
            Program::File(path) => start(path),
            Program::Memory(memory) => memory.start(start),
        }
    }

    /// The name for messages.
    pub(super) fn path(&self) -> PathBuf {
        match &self.program {
            Program::File(path) => path.clone(),
            Program::Memory(_) => format!("nats-server ({})", self.origin).into(),
        }
    }

    /// Asks the binary for its version and refuses one below the minimum. Returns the version as text.
    async fn check_version(&self) -> Result<String, Error> {
        let unusable = |source| Error::BinaryUnusable { path: self.path(), source };
        let started = self.start(|path| {
            let mut command = tokio::process::Command::new(path);
            // A pipe that is closed at once, since an empty root has no /dev/null.
            command.arg("--version").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.kill_on_drop(true).spawn()
        });
        let answer = started.map_err(unusable)?.wait_with_output();
        let output = tokio::time::timeout(Duration::from_secs(30), answer)
            .await
            .map_err(|_| unusable(std::io::Error::other("`--version` did not answer within 30 s")))?
            .map_err(unusable)?;
        check_end(output.status).map_err(unusable)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let Some((version, found)) = parse(&text) else {
            let output =
                if text.trim().is_empty() { String::from_utf8_lossy(&output.stderr).into() } else { text };
            return Err(Error::UnknownVersion { path: self.path(), output });
        };
        NatsVersion::check(&found).map_err(|reason| Error::TooOld { path: self.path(), reason })?;
        if version < NatsVersion::RECOMMENDED {
            tracing::warn!(
                binary = self.origin,
                "nats-server {found} works, but {} or newer is recommended: before it, a power cut during a block rewrite \
                 can cost data even when every message is synced",
                NatsVersion::RECOMMENDED
            );
        }
        Ok(found)
    }
}

/// Fails if the process did not end by itself.
fn check_end(status: ExitStatus) -> std::io::Result<()> {
    let is_killed = status.signal().is_some();
    if is_killed { Err(std::io::Error::other(format!("`--version` ended with {status}"))) } else { Ok(()) }
}

fn named(path: PathBuf, by: &str) -> Result<Found<PathBuf>, Error> {
    if is_executable(&path) {
        return Ok(Found::File(path));
    }
    Err(Error::BinaryNotFound {
        searched: format!("{by} names {}, which is not an executable file", path.display()),
    })
}

fn first_executable(beside: Option<PathBuf>, search: Option<&OsStr>) -> Option<PathBuf> {
    let on_path = search.into_iter().flat_map(std::env::split_paths).map(|dir| dir.join(NAME));
    beside.into_iter().chain(on_path).find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_the_output() {
        assert_eq!(parse("nats-server: v2.15.1\n"), Some((NatsVersion(2, 15, 1), "2.15.1".to_owned())));
        assert_eq!(parse("nats-server: v2.15"), None);
        assert_eq!(parse("etcd Version: 3.7.3"), None);
    }

    #[test]
    fn a_named_binary_that_is_missing_is_an_error() {
        let error = locate(Some(Path::new("/no/such/nats-server"))).unwrap_err().to_string();
        assert!(error.contains("--nats-server names /no/such/nats-server"), "{error}");
        assert!(error.contains("go install github.com/nats-io/nats-server/v2@v2.15.1"), "{error}");
    }

    #[test]
    fn only_an_executable_file_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("a"), dir.path().join("b"));
        for path in [&first, &second] {
            std::fs::create_dir(path).unwrap();
            std::fs::write(path.join(NAME), "").unwrap();
        }
        let search = std::env::join_paths([&first, &second]).unwrap();
        assert_eq!(first_executable(None, Some(&search)), None);
        let wanted = second.join(NAME);
        std::fs::set_permissions(&wanted, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(first_executable(Some(dir.path().join(NAME)), Some(&search)), Some(wanted));
    }

    #[test]
    fn a_binary_that_is_killed_is_not_taken_for_another_program() {
        let killed = ExitStatus::from_raw(libc::SIGKILL);
        assert!(check_end(killed).unwrap_err().to_string().contains("signal: 9"));
        check_end(ExitStatus::from_raw(0)).unwrap();
    }
}
