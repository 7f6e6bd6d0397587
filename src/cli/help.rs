//! The texts of `--help` and `--version`, and the table in `FLAGS.md`.

use super::flags::{self, Effect, Flag};
use super::personality::Personality;
use crate::nats_server::carried_version;
use crate::version::ETCD_VERSION;
use std::fmt::Write as _;

const WIDTH: usize = 110;

/// Every flag with its default.
pub(super) fn help(personality: Personality) -> String {
    let name = match personality {
        Personality::Jetway => "jetway",
        Personality::Etcd => "etcd",
    };
    let mut text = format!(
        "Usage:\n\n  {name} [flags]\n    Serve the etcd v3 API over NATS JetStream. Without --endpoint jetway runs its own \
         nats-server.\n\n  {name} --version\n    Show the version.\n\nFlags take one dash or two, and come from the \
         environment too: ETCD_NAME for --name, JETWAY_… for those under jetway.\n"
    );
    let mut idle: Vec<&Flag> = Vec::new();
    for (heading, flags) in flags::SECTIONS {
        let (shown, hidden): (Vec<&Flag>, Vec<&Flag>) =
            flags.iter().partition(|flag| !matches!(flag.effect, Effect::None(_) | Effect::Refused(_)));
        idle.extend(hidden);
        if !shown.is_empty() {
            put(&mut text, format_args!("\n{heading}:\n"));
        }
        for flag in shown {
            let default = if flag.default.is_empty() { "''" } else { flag.default };
            put(&mut text, format_args!("  --{} {default}\n", flag.name));
            wrap(&mut text, flag.help);
        }
    }
    text += "\nFlags of etcd that are accepted without effect:\n";
    let names = |wanted: fn(&Effect) -> bool| {
        let names = idle.iter().filter(|flag| wanted(&flag.effect)).map(|flag| format!("--{}", flag.name));
        names.collect::<Vec<_>>().join(" ")
    };
    wrap(&mut text, &names(|effect| matches!(effect, Effect::None(_))));
    text += "\nFlags of etcd that are refused:\n";
    wrap(&mut text, &names(|effect| matches!(effect, Effect::Refused(_))));
    text
}

fn put(text: &mut String, more: std::fmt::Arguments<'_>) {
    text.write_fmt(more).expect("a string takes everything");
}

fn wrap(text: &mut String, words: &str) {
    let mut column = 0;
    for word in words.split(' ') {
        let width = word.chars().count() + 1;
        if column == 0 || column + width > WIDTH {
            *text += if column == 0 { "    " } else { "\n    " };
            column = 4 + width;
        } else {
            text.push(' ');
            column += width;
        }
        *text += word;
    }
    text.push('\n');
}

/// The text of `--version`. Called as etcd it has etcd's form, which programs read.
pub(super) fn version(personality: Personality) -> String {
    let own = env!("CARGO_PKG_VERSION");
    match personality {
        Personality::Jetway => {
            let carried = carried_version().map_or_else(String::new, |carried| format!("{carried}\n"));
            format!("jetway {own} (etcd API {ETCD_VERSION})\n{carried}")
        }
        Personality::Etcd => {
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

/// The table in `FLAGS.md`. Consecutive flags without effect for the same reason share a line.
#[cfg_attr(not(test), expect(dead_code, reason = "FLAGS.md is held to it"))]
fn table() -> String {
    let mut text = "| flag | as in etcd? | default | |\n|---|---|---|---|\n".to_owned();
    let all: Vec<&Flag> = flags::SECTIONS.iter().flat_map(|(_, flags)| flags.iter()).collect();
    for group in all.chunk_by(|one, next| one.effect == next.effect && matches!(one.effect, Effect::None(_)))
    {
        let names: Vec<_> = group.iter().map(|flag| format!("`--{}`", flag.name)).collect();
        let (verdict, default, help) = match group[0].effect {
            Effect::Same => ("same", group[0].default, group[0].help),
            Effect::Own => ("jetway's own", group[0].default, group[0].help),
            Effect::Other(how) => ("partly", group[0].default, how),
            Effect::None(why) => ("no effect", "", why),
            Effect::Refused(why) => ("refused", "", why),
        };
        let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
        let help = help.replace('|', "\\|").replace('<', "&lt;");
        put(&mut text, format_args!("| {} | {verdict} | {default} | {help} |\n", names.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_md_has_the_table_of_flags() {
        let page = include_str!("FLAGS.md");
        let table = table();
        assert!(page.contains(&table), "the table in src/cli/FLAGS.md should be\n\n{table}");
    }

    #[test]
    fn help_names_every_flag() {
        let help = help(Personality::Etcd);
        for (_, flags) in flags::SECTIONS {
            for flag in *flags {
                assert!(help.contains(&format!("--{}", flag.name)), "{}", flag.name);
            }
        }
    }

    #[test]
    fn the_version_has_etcd_s_form() {
        let version = version(Personality::Etcd);
        let keys: Vec<_> = version.lines().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
        assert_eq!(keys, ["etcd Version", "Git SHA", "Go Version", "Go OS/Arch"]);
    }
}
