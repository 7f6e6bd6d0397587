//! clap's picture of the command line: the table of flags as arguments, with the commands beside them.

use super::commands::COMMANDS;
use super::flags::{self, Effect, Flag, Kind};
use super::go_flags::HELP_ALL;
use super::program::Program;
use super::values::{self, InvalidValue};
use clap::builder::{PossibleValue, StyledStr, TypedValueParser};
use clap::{Arg, ArgAction, Command};
use std::ffi::OsStr;

/// The command that serves. It is the one without a name, too.
pub(super) const SERVE: &str = "serve";

/// The flags that most users set, by the headings of the help, with one line each.
const COMMON: &[(&str, &[(&str, &str)])] = &[
    (
        "Server",
        &[
            ("name", "Name of this member"),
            ("data-dir", "Store of the embedded nats-server"),
            ("listen-client-urls", "Serve clients here"),
            ("advertise-client-urls", "URLs in the member list [default: those to listen on]"),
            ("quota-backend-bytes", "Refuse writes above so many bytes; 0 is 2 GiB"),
            ("initial-cluster", "Founding members of a cluster, as name=URL,…"),
            ("auto-compaction-retention", "History to keep, such as 1h; 0 is all"),
            ("log-level", "debug, info, warn or error"),
            ("log-format", "console or json"),
            ("config-file", "YAML file with etcd's keys"),
        ],
    ),
    (
        "TLS of clients",
        &[
            ("cert-file", "Certificate of the client ports (PEM)"),
            ("key-file", "Key of --cert-file (PEM)"),
            ("trusted-ca-file", "Authorities of client certificates (PEM)"),
        ],
    ),
    (
        "NATS",
        &[
            ("endpoint", "An existing NATS, nats://host:4222; else an embedded one"),
            ("bucket", "Bucket that holds the data"),
            ("nats-creds", "Credentials file for NATS"),
            ("sync", "When its writes are on disk: group, always or lazy"),
        ],
    ),
];
const MORE: &str = "--help=all shows all flags, with etcd's. A flag takes one dash or two. Its variable is \
                    ETCD_NAME for etcd's --name, and JETWAY_BUCKET for jetway's own --bucket.";
const FORMS: &str = "A flag takes one dash or two. Its variable is ETCD_NAME for etcd's --name, and JETWAY_BUCKET \
                     for jetway's own --bucket.";
const ABOUT: &str = "The etcd v3 API over NATS JetStream.";

/// The whole command line of a program.
pub(super) fn command_line(program: Program) -> Command {
    let command = Command::new(program.name()).max_term_width(110);
    // Go has them in forms of its own.
    let command = command.disable_help_subcommand(true).disable_help_flag(true).disable_version_flag(true);
    match program {
        Program::Etcd => with_flags(command, program)
            .about(ABOUT)
            .override_usage("etcd [FLAGS]")
            .arg(help(ArgAction::HelpLong))
            .after_help(FORMS),
        Program::Kine => super::kine::command(command),
        Program::Jetway => {
            let serve = Command::new(SERVE).about("Serve the etcd v3 API, as without a command");
            let commands = COMMANDS.iter().map(|entry| {
                let command = (entry.args)(Command::new(entry.name).about(entry.about));
                // With the flags of a server it has one.
                let has_help = command.get_arguments().any(|arg| arg.get_id() == "help");
                if has_help { command } else { command.arg(help(ArgAction::HelpShort)) }
            });
            server_flags(command)
                .about(ABOUT)
                .version(env!("CARGO_PKG_VERSION"))
                .override_usage("jetway [FLAGS]\n       jetway COMMAND …")
                .subcommand(server_flags(serve).override_usage("jetway serve [FLAGS]"))
                .subcommands(commands)
                .args_conflicts_with_subcommands(true)
        }
    }
}

/// Adds every flag that serves, with a short and a long help.
pub(super) fn server_flags(command: Command) -> Command {
    let all = Arg::new(HELP_ALL).long(HELP_ALL).action(ArgAction::HelpLong).hide(true);
    with_flags(command, Program::Jetway).arg(help(ArgAction::HelpShort)).arg(all).after_help(MORE)
}

pub(super) fn help(action: ArgAction) -> Arg {
    Arg::new("help").long("help").short('h').action(action).hide(true)
}

/// A command that takes every flag that serves.
fn with_flags(command: Command, program: Program) -> Command {
    let brief = |name: &str| {
        let mut flags = COMMON.iter().flat_map(|(_, flags)| flags.iter());
        flags.find(|(flag, _)| *flag == name).map(|(_, brief)| *brief)
    };
    let common = COMMON.iter().flat_map(|(heading, flags)| {
        flags.iter().filter_map(|(name, _)| Some((*heading, flags::find(name)?)))
    });
    let others =
        flags::SECTIONS.iter().flat_map(|(heading, flags)| flags.iter().map(|flag| (*heading, flag)));
    let others = others.filter(|(_, flag)| brief(flag.name).is_none());
    let shown = common.chain(others).map(|(heading, flag)| {
        let arg = argument(flag, flag.default_of(program)).help_heading(heading);
        match brief(flag.name) {
            Some(brief) => arg.help(brief).long_help(help_of(flag)),
            None => arg.help(help_of(flag)).hide_short_help(true),
        }
    });
    let ignored = flags::IGNORED.iter().map(|flag| argument(flag, "").hide(true));
    command.args(shown).args(ignored)
}

pub(super) fn help_of(flag: &Flag) -> StyledStr {
    match flag.effect {
        Effect::None(why) => format!("No effect: {why}").into(),
        Effect::Refused(why) => format!("Refused: {why}").into(),
        Effect::Same | Effect::Other(_) | Effect::Own => flag.help.into(),
    }
}

/// A flag as an argument of clap.
pub(super) fn argument(flag: &'static Flag, default: &'static str) -> Arg {
    let is_idle = matches!(flag.effect, Effect::None(_));
    let arg = Arg::new(flag.name)
        .long(flag.name)
        .value_parser(ValueOf(flag.kind))
        .value_name(value_name(flag))
        .hide_default_value(is_idle || default == "false" || default == "0")
        // The text of a flag names them.
        .hide_possible_values(true)
        // The last one of several counts.
        .overrides_with(flag.name);
    let arg = if default.is_empty() { arg } else { arg.default_value(default) };
    if flag.stands_alone() {
        return arg.num_args(0..=1).require_equals(true).default_missing_value("true");
    }
    arg
}

fn value_name(flag: &Flag) -> &'static str {
    match flag.kind {
        Kind::Bool => "BOOL",
        Kind::Uint | Kind::Uint32 | Kind::Int => "NUMBER",
        Kind::Duration => "DURATION",
        Kind::Urls | Kind::Origins => "URLS",
        Kind::Choice(_) | Kind::Choices(_) => "CHOICE",
        Kind::Texts(_) | Kind::FeatureGates => "LIST",
        Kind::Text if flag.name.ends_with("-file") => "FILE",
        Kind::Text if flag.name.ends_with("-dir") => "DIR",
        Kind::Text | Kind::Anything => "TEXT",
    }
}

/// Checks a value and leaves it a text, since a config file gives texts too.
#[derive(Clone, Copy, Debug)]
struct ValueOf(Kind);

impl TypedValueParser for ValueOf {
    type Value = String;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<String, clap::Error> {
        let kind = self.0;
        let parse = move |text: &str| -> Result<String, InvalidValue> {
            values::check(kind, text).map(|()| text.to_owned())
        };
        parse.parse_ref(command, arg, value)
    }

    /// They are for the help and for completions.
    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        match self.0 {
            Kind::Choice(choices) | Kind::Choices(choices) => {
                Some(Box::new(choices.iter().copied().map(PossibleValue::new)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_accepts_the_commands() {
        for program in [Program::Jetway, Program::Etcd, Program::Kine] {
            command_line(program).debug_assert();
        }
    }

    #[test]
    fn common_flags_are_in_the_table() {
        for (name, _) in COMMON.iter().flat_map(|(_, flags)| flags.iter()) {
            assert!(flags::find(name).is_some(), "{name}");
        }
    }

    #[test]
    fn the_help_fits_a_screen() {
        let help = command_line(Program::Jetway).term_width(100).render_help().to_string();
        assert!((24..=43).contains(&help.lines().count()), "{help}");
    }

    #[test]
    fn the_long_help_names_every_flag() {
        for program in [Program::Jetway, Program::Etcd] {
            let help = command_line(program).render_long_help().to_string();
            for flag in flags::SECTIONS.iter().flat_map(|(_, flags)| flags.iter()) {
                assert!(help.contains(&format!("--{}", flag.name)), "{}", flag.name);
            }
        }
    }
}
