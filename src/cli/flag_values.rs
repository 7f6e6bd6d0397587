//! The values of flags, from the command line, the environment and the config file.
//!
//! The rules are etcd's. A flag has one dash or two. The last one of two equal flags counts. An empty
//! variable is not set. A flag and its `ETCD_` variable exclude each other. With a config file all other
//! flags and variables of etcd are ignored. jetway's own flags may stand beside any of these, and win over
//! their variables.

use super::config_file::{self, ConfigFileError};
use super::flags::{self, CONFIG_FILE, Effect, Flag};
use super::notice::Notice;
use super::program::Program;
use super::urls::{self, EtcdUrl};
use super::values::{self, InvalidValue};
use crate::duration;
use clap::ArgMatches;
use clap::parser::ValueSource;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// An environment or a config file that cannot be read. The texts are etcd's.
#[derive(Debug, Error)]
pub(super) enum FlagError {
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

/// Checked texts by the names of their flags.
#[derive(Debug)]
pub(super) struct FlagValues {
    /// It decides on defaults.
    pub(super) program: Program,
    values: BTreeMap<&'static str, String>,
    /// The variables of AWS, which all programs read that use S3.
    pub(super) aws: BTreeMap<String, String>,
    /// Whether the values of etcd's flags come from a config file.
    pub(super) from_file: bool,
    /// Messages for the log, which does not exist yet.
    pub(super) notices: Vec<Notice>,
}

impl FlagValues {
    /// Takes the flags of a command line, and reads the environment.
    pub(super) fn read(
        program: Program,
        given: &ArgMatches,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<FlagValues, FlagError> {
        let environment = texts(environment);
        let is_given = |flag: &&Flag| given.value_source(flag.name) == Some(ValueSource::CommandLine);
        let value = |flag: &'static Flag| Some((flag.name, given.get_one::<String>(flag.name)?.clone()));
        let values = flags::all().filter(is_given).filter_map(value).collect();
        let mut flags =
            FlagValues { program, values, aws: aws(&environment), from_file: false, notices: Vec::new() };
        let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        let file = flags.non_empty(CONFIG_FILE).map(str::to_owned);
        if let Some(path) = file.or_else(|| variable("ETCD_CONFIG_FILE").cloned()) {
            flags.values.retain(|name, _| is_own(name));
            flags.read_variables(&environment, |flag| flag.effect == Effect::Own)?;
            flags.report_unknown_variables(&environment, &["JETWAY_"], |_| false);
            flags.from_file = true;
            flags.read_file(&path)?;
        } else {
            flags.read_variables(&environment, |_| true)?;
            flags.report_unknown_variables(&environment, &["ETCD_", "JETWAY_"], |_| false);
        }
        Ok(flags)
    }

    /// Takes values that another program's flags have become, and the variables of jetway's own flags. A
    /// variable of the other program is known if it begins with `prefix` and `is_known`.
    pub(super) fn translated(
        program: Program,
        values: BTreeMap<&'static str, String>,
        notices: Vec<Notice>,
        environment: &BTreeMap<String, String>,
        prefix: &str,
        is_known: impl Fn(&str) -> bool,
    ) -> Result<FlagValues, FlagError> {
        let mut flags = FlagValues { program, values, aws: aws(environment), from_file: false, notices };
        flags.read_variables(environment, |flag| flag.effect == Effect::Own)?;
        flags.report_unknown_variables(environment, &["JETWAY_", prefix], is_known);
        Ok(flags)
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
    fn report_unknown_variables(
        &mut self,
        environment: &BTreeMap<String, String>,
        prefixes: &[&str],
        is_known: impl Fn(&str) -> bool,
    ) {
        let known = |name: &str| is_known(name) || flags::all().any(|flag| flag.variable() == name);
        let ours = |name: &&String| prefixes.iter().any(|prefix| name.starts_with(prefix));
        for name in environment.keys().filter(ours).filter(|name| !known(name)) {
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
        self.non_empty(name).unwrap_or_else(|| self.default_of(name))
    }

    /// The default of a flag, which depends on the name of the program.
    pub(super) fn default_of(&self, name: &str) -> &'static str {
        flags::find(name).map_or("", |flag| flag.default_of(self.program))
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

/// The variables that are texts.
pub(super) fn texts(environment: impl Iterator<Item = (OsString, OsString)>) -> BTreeMap<String, String> {
    environment
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// The variables of AWS among those of an environment.
pub(super) fn aws(environment: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let pairs = environment.iter().filter(|(name, _)| name.starts_with("AWS_"));
    pairs.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn is_own(name: &str) -> bool {
    flags::find(name).is_some_and(|flag| flag.effect == Effect::Own)
}

#[cfg(test)]
mod tests {
    use super::super::command::command_line;
    use super::super::go_flags;
    use super::*;

    fn read(args: &[&str], variables: &[(&str, &str)]) -> Result<FlagValues, FlagError> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        let args = args.iter().map(OsString::from);
        let given = go_flags::parse(command_line(Program::Etcd), args).expect("good arguments");
        FlagValues::read(Program::Etcd, &given, variables)
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
    fn a_flag_and_its_variable_exclude_each_other_where_they_do_in_etcd() {
        let error = read(&["--name", "a"], &[("ETCD_NAME", "")]).expect_err("both").to_string();
        assert!(error.contains("conflicting environment variable") && error.contains("ETCD_NAME"), "{error}");
        let flags = read(&["--bucket", "a"], &[("JETWAY_BUCKET", "b")]).expect("ours");
        assert_eq!(flags.text("bucket"), Some("a"));
    }

    #[test]
    fn unknown_variables_are_reported() {
        let variables = [("ETCD_NAMES", "a"), ("JETWAY_BUKET", "b"), ("HOME", "c")];
        let flags = read(&[], &variables).expect("harmless");
        let notices: Vec<_> = flags.notices.iter().map(|notice| notice.text.as_str()).collect();
        assert_eq!(
            notices,
            [
                "unrecognized environment variable ETCD_NAMES",
                "unrecognized environment variable JETWAY_BUKET"
            ]
        );
        assert!(flags.notices.iter().all(|notice| notice.warns));
    }

    /// A config file makes etcd's variables count for nothing, and leaves jetway's own.
    #[test]
    fn with_a_config_file_unknown_variables_of_jetway_are_reported_alone() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().to_str().expect("a text");
        let variables = [("ETCD_NAMES", "a"), ("JETWAY_BUKET", "b")];
        let flags = read(&["--config-file", path], &variables).expect("harmless");
        let notices: Vec<_> = flags.notices.iter().filter(|notice| notice.warns).collect();
        assert!(notices.len() == 1 && notices[0].text.ends_with("JETWAY_BUKET"), "{notices:?}");
    }
}
