//! The text of `--version`.

use super::program::Program;
use crate::nats_server::carried_version;
use crate::version::ETCD_VERSION;

/// The version. Called as etcd it has etcd's form, which programs read.
pub(super) fn text(program: Program) -> String {
    let own = env!("CARGO_PKG_VERSION");
    match program {
        Program::Jetway => {
            let carried = carried_version().map_or_else(String::new, |carried| format!("{carried}\n"));
            format!("jetway {own} (etcd API {ETCD_VERSION})\n{carried}")
        }
        Program::Kine => format!("kine version jetway {own} (etcd API {ETCD_VERSION})\n"),
        Program::Etcd => {
            let (os, arch) = (std::env::consts::OS, go_arch(std::env::consts::ARCH));
            format!(
                "etcd Version: {ETCD_VERSION}\nGit SHA: jetway {own}\nGo Version: none (jetway is written in Rust)\n\
                 Go OS/Arch: {os}/{arch}\n"
            )
        }
    }
}

fn go_arch(arch: &'static str) -> &'static str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_has_etcd_s_form() {
        let version = text(Program::Etcd);
        let keys: Vec<_> = version.lines().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
        assert_eq!(keys, ["etcd Version", "Git SHA", "Go Version", "Go OS/Arch"]);
    }
}
