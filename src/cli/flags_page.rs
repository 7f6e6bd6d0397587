//! The table in `FLAGS.md`, held to the table of flags.

use super::flags::{self, Effect, Flag};
use std::fmt::Write as _;

/// The table in `FLAGS.md`. Consecutive flags without effect for the same reason share a line.
fn table() -> String {
    let mut text = "| flag | as in etcd? | default | |\n|---|---|---|---|\n".to_owned();
    let all: Vec<&Flag> = flags::SECTIONS.iter().flat_map(|(_, flags)| flags.iter()).collect();
    for group in all.chunk_by(|one, next| one.effect == next.effect && matches!(one.effect, Effect::None(_)))
    {
        let names: Vec<_> = group.iter().map(|flag| format!("`--{}`", flag.name)).collect();
        let flag = group[0];
        let (verdict, help) = match flag.effect {
            Effect::Same => ("same", flag.help),
            Effect::Own => ("jetway's own", flag.help),
            Effect::Other(how) => ("partly", how),
            Effect::None(why) => ("no effect", why),
            Effect::Refused(why) => ("refused", why),
        };
        let default = match (flag.effect, flag.own_default, flag.default) {
            (Effect::None(_) | Effect::Refused(_), _, _) | (_, None, "") => String::new(),
            (_, None, default) => format!("`{default}`"),
            (_, Some(own), default) => format!("`{own}`; as etcd `{default}`"),
        };
        let help = help.replace('|', "\\|").replace('<', "&lt;");
        let names = names.join(", ");
        writeln!(text, "| {names} | {verdict} | {default} | {help} |").expect("a string takes everything");
    }
    text
}

#[test]
fn flags_md_has_the_table_of_flags() {
    let page = include_str!("FLAGS.md");
    let table = table();
    assert!(page.contains(&table), "the table in src/cli/FLAGS.md should be\n\n{table}");
}
