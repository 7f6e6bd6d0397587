//! What was given for each flag, by whichever way: command line, environment or config file.
//!
//! The rules are etcd's: one dash or two; a flag given twice counts the second time; a variable that is empty is not set;
//! a flag and its `ETCD_` variable exclude each other; with a config file all other flags and variables of etcd are
//! ignored. Our own flags, which etcd has no rules for, go with any of these, and win over their variables.

use super::config_file;
use super::flags::{self, CONFIG_FILE, Effect, Flag};
use super::values;
use super::{CommandLineError, Notice};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

/// Checked texts by the name of their flag.
#[derive(Debug, Default)]
pub(super) struct Given {
    values: BTreeMap<&'static str, String>,
    /// Whether etcd's part comes from a config file.
    pub(super) from_file: bool,
    /// What has to be told once there is a log.
    pub(super) notices: Vec<Notice>,
}

/// What a command line asks for.
#[derive(Debug)]
pub(super) enum Request {
    Help,
    Version,
    Serve(Given),
}

/// What arguments are.
enum Arguments {
    /// Flags and nothing else.
    Flags,
    /// A wish for help.
    Help,
    /// Flags up to this one.
    Stray(String),
}

impl Given {
    /// Reads arguments, without the name of the program, and the environment.
    pub(super) fn read(
        args: impl Iterator<Item = OsString>,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Request, CommandLineError> {
        let environment: BTreeMap<String, String> = environment
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let mut given = Given::default();
        match given.read_args(args)? {
            Arguments::Flags => {}
            Arguments::Help => return Ok(Request::Help),
            Arguments::Stray(first) => {
                return Err(CommandLineError::refused(format!("{first:?} is not a valid flag")));
            }
        }
        if given.is_true("version") {
            return Ok(Request::Version);
        }
        let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        let file = given.text(CONFIG_FILE).filter(|path| !path.is_empty()).map(str::to_owned);
        if let Some(path) = file.or_else(|| variable("ETCD_CONFIG_FILE").cloned()) {
            given.values.retain(|name, _| is_own(name));
            given.read_variables(&environment, |flag| flag.effect == Effect::Own)?;
            given.from_file = true;
            given.read_file(&path)?;
        } else {
            given.read_variables(&environment, |_| true)?;
            given.tell_unknown_variables(&environment);
        }
        Ok(Request::Serve(given))
    }

    fn read_args(&mut self, mut args: impl Iterator<Item = OsString>) -> Result<Arguments, CommandLineError> {
        while let Some(arg) = args.next() {
            let arg = into_text(arg)?;
            let dashes = arg.len() - arg.trim_start_matches('-').len();
            if dashes == 0 || arg == "-" {
                return Ok(Arguments::Stray(arg));
            }
            if arg == "--" {
                return args.next().map_or(Ok(Arguments::Flags), |arg| into_text(arg).map(Arguments::Stray));
            }
            let body = &arg[dashes.min(2)..];
            if body.starts_with(['-', '=']) {
                return Err(CommandLineError::usage(format!("bad flag syntax: {arg}")));
            }
            let (name, value) =
                body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value.to_owned())));
            let Some(flag) = flags::find(name) else {
                if matches!(name, "h" | "help") {
                    return Ok(Arguments::Help);
                }
                return Err(CommandLineError::usage(format!("flag provided but not defined: -{name}")));
            };
            let value = match value {
                Some(value) => value,
                None if flag.stands_alone() => "true".to_owned(),
                None => match args.next() {
                    Some(value) => into_text(value)?,
                    None => {
                        return Err(CommandLineError::usage(format!("flag needs an argument: -{name}")));
                    }
                },
            };
            values::check(flag.kind, &value).map_err(|reason| {
                CommandLineError::usage(match flag.kind {
                    flags::Kind::Bool => format!("invalid boolean value {value:?} for -{name}: {reason}"),
                    _ => format!("invalid value {value:?} for flag -{name}: {reason}"),
                })
            })?;
            self.values.insert(flag.name, value);
        }
        Ok(Arguments::Flags)
    }

    fn read_variables(
        &mut self,
        environment: &BTreeMap<String, String>,
        wanted: impl Fn(&Flag) -> bool,
    ) -> Result<(), CommandLineError> {
        for flag in flags::all().filter(|flag| wanted(flag)) {
            let variable = flag.variable();
            let Some(value) = environment.get(&variable) else { continue };
            if self.values.contains_key(flag.name) {
                if flag.effect == Effect::Own {
                    continue;
                }
                return Err(CommandLineError::refused(format!(
                    "conflicting environment variable is shadowed by corresponding command-line flag (either unset \
                     environment variable or disable flag)): {variable} and --{}",
                    flag.name
                )));
            }
            if value.is_empty() {
                continue;
            }
            values::check(flag.kind, value).map_err(|reason| {
                CommandLineError::refused(format!("invalid value {value:?} for {variable}: {reason}"))
            })?;
            self.values.insert(flag.name, value.clone());
        }
        Ok(())
    }

    /// etcd says so too; a name with a typing error in it would be hard to find otherwise.
    fn tell_unknown_variables(&mut self, environment: &BTreeMap<String, String>) {
        let known = |name: &str| flags::all().any(|flag| flag.variable() == name);
        for name in environment.keys().filter(|name| name.starts_with("ETCD_") && !known(name)) {
            self.notices.push(Notice::warning(format!("unrecognized environment variable {name}")));
        }
    }

    fn read_file(&mut self, path: &str) -> Result<(), CommandLineError> {
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

    /// Whether something was given for a flag, be it nothing.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// What was given.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// What was given and is not empty, else the default of the table.
    pub(super) fn text_or_default(&self, name: &'static str) -> &str {
        let default = || flags::find(name).map_or("", |flag| flag.default);
        self.text(name).filter(|text| !text.is_empty()).unwrap_or_else(default)
    }

    /// Every value was checked when it came in, and defaults are values too.
    pub(super) fn is_true(&self, name: &'static str) -> bool {
        values::boolean(self.text_or_default(name)).expect("a checked boolean")
    }

    pub(super) fn unsigned(&self, name: &'static str) -> u64 {
        values::unsigned(self.text_or_default(name)).expect("a checked number")
    }

    pub(super) fn integer(&self, name: &'static str) -> i64 {
        values::integer(self.text_or_default(name)).expect("a checked number")
    }

    pub(super) fn duration(&self, name: &'static str) -> std::time::Duration {
        super::duration::parse(self.text_or_default(name)).expect("a checked duration")
    }

    /// The parts between commas; none of an empty text.
    pub(super) fn texts(&self, name: &'static str) -> Vec<String> {
        let text = self.text_or_default(name);
        if text.is_empty() { Vec::new() } else { text.split(',').map(str::to_owned).collect() }
    }

    /// Flags that were given although they have no effect.
    pub(super) fn without_effect(&self) -> impl Iterator<Item = &'static Flag> {
        flags::all()
            .filter(|flag| matches!(flag.effect, Effect::None(_)) && self.values.contains_key(flag.name))
    }
}

fn is_own(name: &str) -> bool {
    flags::find(name).is_some_and(|flag| flag.effect == Effect::Own)
}

fn into_text(arg: OsString) -> Result<String, CommandLineError> {
    arg.into_string().map_err(|arg| CommandLineError::usage(format!("{} is no text", arg.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str], variables: &[(&str, &str)]) -> Result<Given, String> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        match Given::read(args.iter().map(OsString::from), variables) {
            Ok(Request::Serve(given)) => Ok(given),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn one_dash_is_as_good_as_two() {
        let given = read(&["-name", "a", "--data-dir=d", "-quota-backend-bytes=-1", "--name=b"], &[])
            .expect("etcd's own forms");
        assert_eq!((given.text("name"), given.text("data-dir")), (Some("b"), Some("d")));
        assert_eq!(given.integer("quota-backend-bytes"), -1);
    }

    #[test]
    fn booleans_stand_alone() {
        for (arg, expected) in
            [("--client-cert-auth", true), ("--client-cert-auth=1", true), ("-client-cert-auth=F", false)]
        {
            assert_eq!(read(&[arg], &[]).expect(arg).is_true("client-cert-auth"), expected, "{arg}");
        }
        // As in etcd: what follows is not its value.
        assert!(
            read(&["--client-cert-auth", "true"], &[]).expect_err("positional").contains("\"true\" is not")
        );
    }

    #[test]
    fn mistakes_are_told_in_go_s_words() {
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
            let error = read(args, &[]).expect_err("a mistake");
            assert!(error.contains(words), "{args:?}: {error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn an_argument_that_is_no_text_is_an_error() {
        use std::os::unix::ffi::OsStringExt;
        let args = [OsString::from_vec(b"--name=\xff".to_vec())];
        Given::read(args.into_iter(), std::iter::empty()).expect_err("no text");
    }

    #[test]
    fn the_environment_is_read_for_every_flag() {
        let given = read(
            &[],
            &[("ETCD_NAME", "a"), ("ETCD_DATA_DIR", ""), ("ETCD_MAX_TXN_OPS", "5"), ("JETWAY_BUCKET", "b")],
        )
        .expect("good variables");
        assert_eq!((given.text("name"), given.text("bucket")), (Some("a"), Some("b")));
        assert!(!given.is_set("data-dir"));
        assert_eq!(given.unsigned("max-txn-ops"), 5);
        let error = read(&[], &[("ETCD_MAX_TXN_OPS", "a")]).expect_err("no number");
        assert!(error.contains("invalid value \"a\" for ETCD_MAX_TXN_OPS: parse error"), "{error}");
    }

    #[test]
    fn a_flag_and_its_variable_exclude_each_other_where_etcd_says_so() {
        let error = read(&["--name", "a"], &[("ETCD_NAME", "")]).expect_err("both");
        assert!(error.contains("conflicting environment variable") && error.contains("ETCD_NAME"), "{error}");
        let given = read(&["--bucket", "a"], &[("JETWAY_BUCKET", "b")]).expect("ours");
        assert_eq!(given.text("bucket"), Some("a"));
    }

    #[test]
    fn unknown_variables_are_told() {
        let given = read(&[], &[("ETCD_NAMES", "a"), ("JETWAY_TEST", "b")]).expect("harmless");
        assert_eq!(given.notices.len(), 1);
        assert!(given.notices[0].text.contains("ETCD_NAMES"));
    }
}
