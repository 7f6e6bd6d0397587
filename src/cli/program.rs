//! The name by which the program is called.

use std::ffi::OsString;
use std::path::Path;

/// The program whose command line this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// jetway, with its own defaults.
    Jetway,
    /// etcd, through a link of this name: defaults, version and refusals are etcd's.
    Etcd,
    /// kine, through a link of this name: flags, defaults and refusals are kine's.
    Kine,
}

impl Program {
    /// Decides by the name in the first argument. A version may follow the name, as in `etcd-3.7`.
    pub fn of(program: Option<&OsString>) -> Program {
        let name = program.and_then(|program| Path::new(program).file_name()).and_then(|name| name.to_str());
        let name = name.unwrap_or_default();
        let is = |program: &str| name.strip_prefix(program).is_some_and(is_version);
        match () {
            () if is("etcd") => Program::Etcd,
            () if is("kine") => Program::Kine,
            () => Program::Jetway,
        }
    }

    /// The name of the program.
    pub fn name(self) -> &'static str {
        match self {
            Program::Jetway => "jetway",
            Program::Etcd => "etcd",
            Program::Kine => "kine",
        }
    }
}

/// Whether a file's name ends so after the program's: with nothing, a version or an extension.
fn is_version(rest: &str) -> bool {
    let rest = rest.trim_start_matches(['-', '_', '.']);
    let number = rest.strip_prefix('v').unwrap_or(rest);
    rest.is_empty() || rest == "exe" || number.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_name_decides() {
        for (program, expected) in [
            ("/usr/bin/etcd", Program::Etcd),
            ("etcd-3.7.3", Program::Etcd),
            ("etcd-v3.7", Program::Etcd),
            ("etcd3", Program::Etcd),
            ("./kine", Program::Kine),
            ("jetway", Program::Jetway),
            ("etcdctl", Program::Jetway),
            ("etcd/jetway", Program::Jetway),
        ] {
            assert_eq!(Program::of(Some(&program.into())), expected, "{program}");
        }
        assert_eq!(Program::of(None), Program::Jetway);
    }
}
