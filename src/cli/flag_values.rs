//! The values of flags, from the command line, the environment and the config file.
//!
//! The rules are etcd's. A flag has one dash or two. The last one of two equal flags counts. An empty
//! variable is not set. A flag and its `ETCD_` variable exclude each other. With a config file all other
//! flags and variables of etcd are ignored. jetway's own flags may stand beside any of these, and win over
//! their variables.

use super::config_file::{self, ConfigFileError};
use super::flags::{self, CONFIG_FILE, Effect, Flag, Kind};
use super::notice::Notice;
use super::urls::{self, EtcdUrl};
use super::values::{self, InvalidValue};
use crate::duration;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// A command line or an environment that cannot be read. The texts are those of etcd and of Go's `flag`
/// package.
#[derive(Debug, Error)]
pub(super) enum FlagError {
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
    #[error("invalid value {value:?} for {variable}: {reason}")]
    Variable { variable: String, value: String, reason: InvalidValue },
    #[error(
        "conflicting environment variable is shadowed by corresponding command-line flag (either unset \
         environment variable or disable flag)): {variable} and --{flag}"
    )]
    Conflict { variable: String, flag: &'static str },
    #[error(transparent)]
    ConfigFile(#[from] ConfigFileError),
}

impl FlagError {
    /// Whether the mistake is one of the arguments themselves, for which Go's `flag` package exits with
    /// status 2.
    pub(super) fn is_usage(&self) -> bool {
        match self {
            FlagError::NotText(_)
            | FlagError::Syntax(_)
            | FlagError::Unknown(_)
            | FlagError::NoValue(_)
            | FlagError::Boolean { .. }
            | FlagError::Value { .. } => true,
            FlagError::Positional(_)
            | FlagError::Variable { .. }
            | FlagError::Conflict { .. }
            | FlagError::ConfigFile(_) => false,
        }
    }
}

/// Checked texts by the names of their flags.
#[derive(Debug, Default)]
pub(super) struct FlagValues {
    values: BTreeMap<&'static str, String>,
    /// Whether the values of etcd's flags come from a config file.
    pub(super) from_file: bool,
    /// Messages for the log, which does not exist yet.
    pub(super) notices: Vec<Notice>,
}

/// A command line that was understood.
#[derive(Debug)]
pub(super) enum CommandLine {
    Help,
    Version,
    Serve(FlagValues),
}

/// The point at which reading the arguments stopped.
enum Arguments {
    /// All of them are flags.
    Flags,
    /// One asks for help.
    Help,
    /// This one is not a flag.
    Positional(String),
}

impl FlagValues {
    /// Reads arguments, without the name of the program, and the environment.
    pub(super) fn read(
        args: impl Iterator<Item = OsString>,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<CommandLine, FlagError> {
        let environment: BTreeMap<String, String> = environment
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let mut flags = FlagValues::default();
        match flags.read_args(args)? {
            Arguments::Flags => {}
            Arguments::Help => return Ok(CommandLine::Help),
            Arguments::Positional(arg) => return Err(FlagError::Positional(arg)),
        }
        if flags.is_true("version") {
            return Ok(CommandLine::Version);
        }
        let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        let file = flags.non_empty(CONFIG_FILE).map(str::to_owned);
        if let Some(path) = file.or_else(|| variable("ETCD_CONFIG_FILE").cloned()) {
            flags.values.retain(|name, _| is_own(name));
            flags.read_variables(&environment, |flag| flag.effect == Effect::Own)?;
            flags.from_file = true;
            flags.read_file(&path)?;
        } else {
            flags.read_variables(&environment, |_| true)?;
            flags.report_unknown_variables(&environment);
        }
        Ok(CommandLine::Serve(flags))
    }

    fn read_args(&mut self, mut args: impl Iterator<Item = OsString>) -> Result<Arguments, FlagError> {
        while let Some(arg) = args.next() {
            let arg = into_text(arg)?;
            let dashes = arg.len() - arg.trim_start_matches('-').len();
            if dashes == 0 || arg == "-" {
                return Ok(Arguments::Positional(arg));
            }
            if arg == "--" {
                return args
                    .next()
                    .map_or(Ok(Arguments::Flags), |arg| into_text(arg).map(Arguments::Positional));
            }
            let body = &arg[dashes.min(2)..];
            if body.starts_with(['-', '=']) {
                return Err(FlagError::Syntax(arg));
            }
            let (name, value) =
                body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value.to_owned())));
            let Some(flag) = flags::find(name) else {
                if matches!(name, "h" | "help") {
                    return Ok(Arguments::Help);
                }
                return Err(FlagError::Unknown(name.to_owned()));
            };
            let value = match value {
                Some(value) => value,
                None if flag.stands_alone() => "true".to_owned(),
                None => match args.next() {
                    Some(value) => into_text(value)?,
                    None => return Err(FlagError::NoValue(name.to_owned())),
                },
            };
            match values::check(flag.kind, &value) {
                Ok(()) => self.values.insert(flag.name, value),
                Err(reason) => {
                    let name = name.to_owned();
                    return Err(match flag.kind {
                        Kind::Bool => FlagError::Boolean { name, value, reason },
                        _ => FlagError::Value { name, value, reason },
                    });
                }
            };
        }
        Ok(Arguments::Flags)
    }

    fn read_variables(
        &mut self,
        environment: &BTreeMap<String, String>,
        wanted: impl Fn(&Flag) -> bool,
    ) -> Result<(), FlagError> {
        for flag in flags::all().filter(|flag| wanted(flag)) {
            let variable = flag.variable();
            let Some(value) = environment.get(&variable) else { continue };
            if self.values.contains_key(flag.name) {
                if flag.effect == Effect::Own {
                    continue;
                }
                return Err(FlagError::Conflict { variable, flag: flag.name });
            }
            if value.is_empty() {
                continue;
            }
            match values::check(flag.kind, value) {
                Ok(()) => self.values.insert(flag.name, value.clone()),
                Err(reason) => {
                    return Err(FlagError::Variable { variable, value: value.clone(), reason });
                }
            };
        }
        Ok(())
    }

    /// As in etcd, a warning helps to find a misspelt name.
    fn report_unknown_variables(&mut self, environment: &BTreeMap<String, String>) {
        let known = |name: &str| flags::all().any(|flag| flag.variable() == name);
        for name in environment.keys().filter(|name| name.starts_with("ETCD_") && !known(name)) {
            self.notices.push(Notice::warning(format!("unrecognized environment variable {name}")));
        }
    }

    fn read_file(&mut self, path: &str) -> Result<(), FlagError> {
        let file = config_file::read(Path::new(path))?;
        for (name, value) in file.values {
            self.values.entry(name).or_insert(value);
        }
        self.notices.push(Notice::information(format!(
            "loaded server configuration, other configuration command line flags and environment variables will be \
             ignored if provided: {path}"
        )));
        if !file.unknown.is_empty() {
            self.notices.push(Notice::warning(format!(
                "keys of {path} that mean nothing: {}",
                file.unknown.join(", ")
            )));
        }
        Ok(())
    }

    /// Whether a flag has a value of its own, which may be empty.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The value of a flag, without its default.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The value of a flag, if it is not empty.
    pub(super) fn non_empty(&self, name: &str) -> Option<&str> {
        self.text(name).filter(|text| !text.is_empty())
    }

    /// The value of a flag; its default for an empty value or none.
    pub(super) fn text_or_default(&self, name: &'static str) -> &str {
        self.non_empty(name).unwrap_or_else(|| flags::find(name).map_or("", |flag| flag.default))
    }

    // The methods below cannot fail: `values::check` has accepted each value, and would accept each default.

    pub(super) fn is_true(&self, name: &'static str) -> bool {
        values::boolean(self.text_or_default(name)).expect("a checked boolean")
    }

    pub(super) fn unsigned(&self, name: &'static str) -> u64 {
        values::unsigned(self.text_or_default(name)).expect("a checked number")
    }

    /// The value in 32 bits; a larger one counts as the largest.
    pub(super) fn unsigned_32(&self, name: &'static str) -> u32 {
        u32::try_from(self.unsigned(name)).unwrap_or(u32::MAX)
    }

    pub(super) fn integer(&self, name: &'static str) -> i64 {
        values::integer(self.text_or_default(name)).expect("a checked number")
    }

    pub(super) fn duration(&self, name: &'static str) -> Duration {
        duration::parse(self.text_or_default(name)).expect("a checked duration")
    }

    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.non_empty(name).map(PathBuf::from)
    }

    pub(super) fn urls(&self, name: &'static str) -> Vec<EtcdUrl> {
        match self.text_or_default(name) {
            "" => Vec::new(),
            text => urls::parse_list(text).expect("checked URLs"),
        }
    }

    /// The parts between commas. An empty text has none.
    pub(super) fn texts(&self, name: &'static str) -> Vec<String> {
        let text = self.text_or_default(name);
        if text.is_empty() { Vec::new() } else { text.split(',').map(str::to_owned).collect() }
    }

    /// Flags that have a value and no effect.
    pub(super) fn without_effect(&self) -> impl Iterator<Item = &'static Flag> {
        flags::all()
            .filter(|flag| matches!(flag.effect, Effect::None(_)) && self.values.contains_key(flag.name))
    }
}

fn is_own(name: &str) -> bool {
    flags::find(name).is_some_and(|flag| flag.effect == Effect::Own)
}

fn into_text(arg: OsString) -> Result<String, FlagError> {
    arg.into_string().map_err(|arg| FlagError::NotText(arg.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str], variables: &[(&str, &str)]) -> Result<FlagValues, FlagError> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        match FlagValues::read(args.iter().map(OsString::from), variables)? {
            CommandLine::Serve(flags) => Ok(flags),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_dash_and_two_are_equal() {
        let flags = read(&["-name", "a", "--data-dir=d", "-quota-backend-bytes=-1", "--name=b"], &[])
            .expect("etcd's own forms");
        assert_eq!((flags.text("name"), flags.text("data-dir")), (Some("b"), Some("d")));
        assert_eq!(flags.integer("quota-backend-bytes"), -1);
    }

    #[test]
    fn booleans_stand_alone() {
        for (arg, expected) in
            [("--client-cert-auth", true), ("--client-cert-auth=1", true), ("-client-cert-auth=F", false)]
        {
            assert_eq!(read(&[arg], &[]).expect(arg).is_true("client-cert-auth"), expected, "{arg}");
        }
        // As in etcd, the next argument is not its value.
        let error = read(&["--client-cert-auth", "true"], &[]).expect_err("positional").to_string();
        assert!(error.contains("\"true\" is not"), "{error}");
    }

    #[test]
    fn mistakes_have_go_s_texts() {
        for (args, words) in [
            (&["--no-such"][..], "flag provided but not defined: -no-such"),
            (&["--experimental-initial-corrupt-check"], "not defined"),
            (&["--name"], "flag needs an argument: -name"),
            (&["--client-cert-auth=yes"], "invalid boolean value \"yes\" for -client-cert-auth: parse error"),
            (&["--max-txn-ops", "many"], "invalid value \"many\" for flag -max-txn-ops: parse error"),
            (&["---name"], "bad flag syntax: ---name"),
            (&["--=a"], "bad flag syntax: --=a"),
            (&["a"], "\"a\" is not a valid flag"),
            (&["--", "a"], "\"a\" is not a valid flag"),
            (&["-"], "\"-\" is not a valid flag"),
        ] {
            let error = read(args, &[]).expect_err("a mistake").to_string();
            assert!(error.contains(words), "{args:?}: {error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn an_argument_that_is_no_text_is_an_error() {
        use std::os::unix::ffi::OsStringExt;
        let args = [OsString::from_vec(b"--name=\xff".to_vec())];
        FlagValues::read(args.into_iter(), std::iter::empty()).expect_err("no text");
    }

    #[test]
    fn the_environment_is_read_for_every_flag() {
        let flags = read(
            &[],
            &[("ETCD_NAME", "a"), ("ETCD_DATA_DIR", ""), ("ETCD_MAX_TXN_OPS", "5"), ("JETWAY_BUCKET", "b")],
        )
        .expect("good variables");
        assert_eq!((flags.text("name"), flags.text("bucket")), (Some("a"), Some("b")));
        assert!(!flags.is_set("data-dir"));
        assert_eq!(flags.unsigned("max-txn-ops"), 5);
        let error = read(&[], &[("ETCD_MAX_TXN_OPS", "a")]).expect_err("no number").to_string();
        assert!(error.contains("invalid value \"a\" for ETCD_MAX_TXN_OPS: parse error"), "{error}");
    }

    #[test]
    fn a_flag_and_its_variable_exclude_each_other_where_etcd_says_so() {
        let error = read(&["--name", "a"], &[("ETCD_NAME", "")]).expect_err("both").to_string();
        assert!(error.contains("conflicting environment variable") && error.contains("ETCD_NAME"), "{error}");
        let flags = read(&["--bucket", "a"], &[("JETWAY_BUCKET", "b")]).expect("ours");
        assert_eq!(flags.text("bucket"), Some("a"));
    }

    #[test]
    fn unknown_variables_are_reported() {
        let flags = read(&[], &[("ETCD_NAMES", "a"), ("JETWAY_TEST", "b")]).expect("harmless");
        assert_eq!(flags.notices.len(), 1);
        assert!(flags.notices[0].text.contains("ETCD_NAMES"));
    }
}
