//! Finds a nats-server, and refuses one that is too old.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use super::Error;
use crate::version::NatsVersion;

const ENV: &str = "JETWAY_NATS_SERVER";
const NAME: &str = "nats-server";

/// The version in `nats-server: v2.15.1`, and its text.
fn parse(output: &str) -> Option<(NatsVersion, String)> {
    let text = output.trim().strip_prefix("nats-server: v")?.split_whitespace().next()?;
    Some((NatsVersion::parse(text)?, text.to_owned()))
}

/// The binary to run: that of `flag`, of the environment, beside this executable, or in `PATH`. A named path
/// that does not exist is an error, and no reason to look further.
pub(super) fn find(flag: Option<&Path>) -> Result<PathBuf, Error> {
    if let Some(path) = flag {
        return named(path.to_owned(), "--nats-server");
    }
    if let Some(path) = std::env::var_os(ENV).filter(|path| !path.is_empty()) {
        return named(path.into(), ENV);
    }
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(NAME)));
    let search = std::env::var_os("PATH");
    first_executable(beside, search.as_deref()).ok_or_else(|| Error::BinaryNotFound {
        searched: format!(
            "neither --nats-server nor {ENV} is set, and none is beside the jetway executable or on PATH"
        ),
    })
}

fn named(path: PathBuf, by: &str) -> Result<PathBuf, Error> {
    if is_executable(&path) {
        return Ok(path);
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

/// Asks the binary for its version and refuses one below the minimum. Returns the version as text.
pub(super) async fn check_version(path: &Path) -> Result<String, Error> {
    let unusable = |source| Error::BinaryUnusable { path: path.to_owned(), source };
    let mut command = tokio::process::Command::new(path);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(30), command.output())
        .await
        .map_err(|_| unusable(std::io::Error::other("`--version` did not answer within 30 s")))?
        .map_err(unusable)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let Some((version, found)) = parse(&text) else {
        let output =
            if text.trim().is_empty() { String::from_utf8_lossy(&output.stderr).into() } else { text };
        return Err(Error::UnknownVersion { path: path.to_owned(), output });
    };
    NatsVersion::check(&found).map_err(|reason| Error::TooOld { path: path.to_owned(), reason })?;
    if version < NatsVersion::RECOMMENDED {
        tracing::warn!(
            binary = %path.display(),
            "nats-server {found} works, but {} or newer is recommended: before it, a power cut during a block rewrite can \
             cost data even when every message is synced",
            NatsVersion::RECOMMENDED
        );
    }
    Ok(found)
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
        let error = find(Some(Path::new("/no/such/nats-server"))).unwrap_err().to_string();
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
}
