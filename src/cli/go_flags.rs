//! The grammar of Go's `flag` package, on top of clap.
//!
//! Go takes one dash or two, and the argument after a flag for its value, even if that begins with a dash. A
//! boolean flag takes a value only behind an equals sign. The first argument that is no flag ends the flags.
//! [`arguments`] writes such a command line in the form that clap reads. [`parse`] gives clap's refusals in
//! the words of Go's package.

use super::values::InvalidValue;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgMatches, Command};
use std::error::Error as _;
use std::ffi::OsString;
use thiserror::Error;

/// Name of the flag that stands for `--help=all`.
pub(super) const HELP_ALL: &str = "help-all";

/// A mistake in the arguments themselves. The texts are those of etcd and of Go's `flag` package.
#[derive(Debug, Error)]
pub(super) enum UsageError {
    #[error("{0} is no text")]
    NotText(String),
    #[error("{0:?} is not a valid flag")]
    Positional(String),
    #[error("bad flag syntax: {0}")]
    Syntax(String),
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    #[error("invalid boolean value {value:?} for -{name}: {reason}")]
    Boolean { name: String, value: String, reason: InvalidValue },
    #[error("invalid value {value:?} for flag -{name}: {reason}")]
    Value { name: String, value: String, reason: InvalidValue },
    /// A refusal that only clap knows.
    #[error(transparent)]
    Other(clap::Error),
}

/// The reason for which there are no values.
#[derive(Debug)]
pub(super) enum NoMatches {
    /// An argument asks for help, which is here.
    Help(clap::Error),
    Usage(UsageError),
}

/// Arguments in the form that clap reads.
pub(super) struct Arguments {
    /// Each flag with two dashes, and with its value behind an equals sign.
    pub(super) flags: Vec<OsString>,
    /// The first argument that is no flag or no text, and the mistake that it is to Go.
    pub(super) end: Option<(OsString, UsageError)>,
}

/// Reads Go's form. `args` is left behind the first argument that is no flag. Subcommands of `command` may
/// come first.
pub(super) fn arguments(mut command: &Command, args: &mut impl Iterator<Item = OsString>) -> Arguments {
    let (mut flags, mut has_flags) = (Vec::new(), false);
    let ends = |flags, arg: OsString, mistake: fn(String) -> UsageError| {
        let text = arg.display().to_string();
        Arguments { flags, end: Some((arg, mistake(text))) }
    };
    while let Some(arg) = args.next() {
        let Some(text) = arg.to_str() else { return ends(flags, arg, UsageError::NotText) };
        if text == "--" {
            return match args.next() {
                Some(arg) => ends(flags, arg, UsageError::Positional),
                None => Arguments { flags, end: None },
            };
        }
        let Some(body) = text.strip_prefix('-').filter(|body| !body.is_empty()) else {
            if let Some(subcommand) = command.find_subcommand(text).filter(|_| !has_flags) {
                command = subcommand;
                flags.push(arg);
                continue;
            }
            return ends(flags, arg, UsageError::Positional);
        };
        has_flags = true;
        let body = body.strip_prefix('-').unwrap_or(body);
        if body.starts_with(['-', '=']) {
            return ends(flags, arg, UsageError::Syntax);
        }
        let (name, value) = body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value)));
        let (name, value) = match (name, value) {
            ("h", _) if find(command, name).is_none() => ("help", None),
            ("help", Some("all")) if find(command, HELP_ALL).is_some() => (HELP_ALL, None),
            ("help", _) if find(command, HELP_ALL).is_none() => (name, None),
            _ => (name, value.map(OsString::from)),
        };
        let takes_next = || find(command, name).is_some_and(takes_next);
        let value = value.or_else(|| if takes_next() { args.next() } else { None });
        let mut flag = OsString::from(format!("--{name}"));
        if let Some(value) = value {
            flag.push("=");
            flag.push(value);
        }
        flags.push(flag);
    }
    Arguments { flags, end: None }
}

fn find<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| arg.get_long() == Some(name))
}

fn takes_next(arg: &Arg) -> bool {
    arg.get_action().takes_values() && !arg.is_require_equals_set()
}

/// Reads arguments that are all flags, by the rules and with the words of Go's package.
pub(super) fn parse(
    command: Command,
    mut args: impl Iterator<Item = OsString>,
) -> Result<ArgMatches, NoMatches> {
    let booleans: Vec<String> = command
        .get_arguments()
        .filter(|arg| arg.is_require_equals_set())
        .map(|arg| arg.get_id().to_string())
        .collect();
    let Arguments { flags, end } = arguments(&command, &mut args);
    // Go refuses the first mistake. A mistake among the flags comes before the argument that ends them.
    let words = [command.get_name().into()].into_iter().chain(flags);
    match (command.try_get_matches_from(words), end) {
        (Ok(matches), None) => Ok(matches),
        (Ok(_), Some((_, mistake))) => Err(NoMatches::Usage(mistake)),
        (Err(error), _) => Err(in_go_words(error, |name| booleans.iter().any(|flag| flag == name))),
    }
}

fn in_go_words(error: clap::Error, is_boolean: impl Fn(&str) -> bool) -> NoMatches {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    let arg = text(ContextKind::InvalidArg);
    let arg = arg.strip_prefix("--").unwrap_or(&arg);
    // clap adds a name for the value to a flag that it knows.
    let name = || arg.split([' ', '[', '=']).next().unwrap_or_default().to_owned();
    let reason = error.source().and_then(|source| source.downcast_ref::<InvalidValue>()).cloned();
    NoMatches::Usage(match (error.kind(), reason) {
        (ErrorKind::DisplayHelp, _) => return NoMatches::Help(error),
        (ErrorKind::UnknownArgument, _) => UsageError::Unknown(arg.to_owned()),
        (ErrorKind::InvalidValue, _) => UsageError::NoValue(name()),
        (ErrorKind::InvalidUtf8, _) => UsageError::NotText("an argument".to_owned()),
        (ErrorKind::ValueValidation, Some(reason)) => {
            let (name, value) = (name(), text(ContextKind::InvalidValue));
            if is_boolean(&name) {
                UsageError::Boolean { name, value, reason }
            } else {
                UsageError::Value { name, value, reason }
            }
        }
        _ => UsageError::Other(error),
    })
}

#[cfg(test)]
mod tests {
    use super::super::command::command_line;
    use super::super::program::Program;
    use super::*;

    fn parse_os(args: impl IntoIterator<Item = OsString>) -> Result<ArgMatches, NoMatches> {
        parse(command_line(Program::Etcd), args.into_iter())
    }

    fn read(args: &[&str]) -> ArgMatches {
        parse_os(args.iter().map(OsString::from)).unwrap_or_else(|error| panic!("{args:?}: {error:?}"))
    }

    fn mistake(args: &[&str]) -> String {
        match parse_os(args.iter().map(OsString::from)) {
            Err(NoMatches::Usage(error)) => error.to_string(),
            other => panic!("{args:?}: {other:?}"),
        }
    }

    fn value<'a>(matches: &'a ArgMatches, name: &str) -> &'a str {
        matches.get_one::<String>(name).expect("a value or a default")
    }

    #[test]
    fn one_dash_and_two_are_equal() {
        let args = ["-name", "a", "--data-dir=d", "-quota-backend-bytes=-1", "--name=b", "-v=3", "-vv", "--"];
        let matches = read(&args);
        assert_eq!((value(&matches, "name"), value(&matches, "data-dir")), ("b", "d"));
        assert_eq!(value(&matches, "quota-backend-bytes"), "-1");
    }

    #[test]
    fn values_may_be_anything() {
        let matches =
            read(&["--name", "--data-dir", "--data-dir", "--", "-max-snapshots", "5", "--wal-dir="]);
        assert_eq!((value(&matches, "name"), value(&matches, "data-dir")), ("--data-dir", "--"));
        assert_eq!((value(&matches, "max-snapshots"), value(&matches, "wal-dir")), ("5", ""));
        assert_eq!(value(&read(&["--name", "", "-auth-token", "a=b=c"]), "auth-token"), "a=b=c");
    }

    #[test]
    fn booleans_stand_alone() {
        for (arg, expected) in
            [("--client-cert-auth", "true"), ("--client-cert-auth=1", "1"), ("-client-cert-auth=F", "F")]
        {
            assert_eq!(value(&read(&[arg]), "client-cert-auth"), expected, "{arg}");
        }
        // As in etcd, the next argument is not its value.
        assert_eq!(mistake(&["--client-cert-auth", "true"]), "\"true\" is not a valid flag");
    }

    #[test]
    fn mistakes_have_go_s_texts() {
        for (args, words) in [
            (&["--no-such"][..], "flag provided but not defined: -no-such"),
            (&["--no-such=1"], "flag provided but not defined: -no-such"),
            (&["--experimental-initial-corrupt-check"], "not defined"),
            (&["--name"], "flag needs an argument: -name"),
            (&["--v2-deprecation"], "flag needs an argument: -v2-deprecation"),
            (
                &["--initial-cluster-state="],
                "invalid value \"\" for flag -initial-cluster-state: invalid value",
            ),
            (&["--client-cert-auth=yes"], "invalid boolean value \"yes\" for -client-cert-auth: parse error"),
            (&["--client-cert-auth="], "invalid boolean value \"\" for -client-cert-auth: parse error"),
            (&["--max-txn-ops", "many"], "invalid value \"many\" for flag -max-txn-ops: parse error"),
            (&["--max-txn-ops=a", "--max-txn-ops=1"], "invalid value \"a\" for flag -max-txn-ops"),
            (&["---name"], "bad flag syntax: ---name"),
            (&["--=a"], "bad flag syntax: --=a"),
            (&["a"], "\"a\" is not a valid flag"),
            (&["serve"], "\"serve\" is not a valid flag"),
            (&["--", "a"], "\"a\" is not a valid flag"),
            (&["--", "--name"], "\"--name\" is not a valid flag"),
            (&["-"], "\"-\" is not a valid flag"),
            // The first mistake counts.
            (&["--no-such", "---name"], "not defined: -no-such"),
            (&["---name", "--no-such"], "bad flag syntax"),
            (&["--max-txn-ops=a", "--no-such"], "invalid value \"a\""),
        ] {
            let error = mistake(args);
            assert!(error.contains(words), "{args:?}: {error}");
        }
    }

    #[test]
    fn the_first_of_a_help_and_a_mistake_counts() {
        for args in [&["--help", "--no-such"][..], &["-h"], &["-help=a"], &["--name=a", "-h", "---"]] {
            let answer = parse_os(args.iter().map(OsString::from));
            assert!(matches!(answer, Err(NoMatches::Help(_))), "{args:?}: {answer:?}");
        }
        assert!(mistake(&["--no-such", "--help"]).contains("not defined"));
    }

    #[cfg(unix)]
    #[test]
    fn an_argument_that_is_no_text_is_an_error() {
        use std::os::unix::ffi::OsStringExt;
        let foreign = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        for args in [vec![foreign(b"--name=\xff")], vec!["--name".into(), foreign(b"\xff")]] {
            let answer = parse_os(args);
            assert!(matches!(answer, Err(NoMatches::Usage(UsageError::NotText(_)))), "{answer:?}");
        }
    }
}
