//! Tests of the way from kine's arguments to settings.

use super::super::compaction::AutoCompaction;
use super::super::flags::{Effect, Flag};
use super::super::listen::{ListenAddress, ListenUrl};
use super::super::settings::ServerSettings;
use super::super::storage::Storage;
use super::flags::{FLAGS, variable};
use super::{Invocation, KineError, read};
use crate::telemetry::LogFormat;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::time::Duration;

fn settings_in(args: &[&str], variables: &[(&str, &str)]) -> Result<ServerSettings, KineError> {
    let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
    match read(args.iter().map(OsString::from), variables)? {
        Invocation::Serve(settings) => Ok(*settings),
        other @ Invocation::Print(_) => panic!("{other:?}"),
    }
}

fn settings(args: &[&str]) -> ServerSettings {
    settings_in(args, &[]).unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

fn notices(settings: &ServerSettings) -> Vec<&str> {
    settings.notices.iter().map(|notice| notice.text.as_str()).collect()
}

fn addresses(listen: &[ListenUrl]) -> Vec<&str> {
    listen.iter().map(|listen| listen.url.as_str()).collect()
}

#[test]
fn the_defaults_are_kine_s_but_for_the_database() {
    let settings = settings(&[]);
    assert_eq!(addresses(&settings.listen), ["http://0.0.0.0:2379"]);
    assert_eq!(addresses(&settings.listen_metrics), ["http://0.0.0.0:8080"]);
    assert_eq!(settings.progress_interval, Duration::from_secs(5));
    assert_eq!((settings.auto_compaction, settings.log.format), (None, LogFormat::Console));
    assert!(settings.tls.is_none() && matches!(settings.storage, Storage::Embedded { .. }));
    let notices = notices(&settings);
    assert!(
        notices.len() == 1 && notices[0].contains("SQLite") && notices[0].contains("default.jetway"),
        "{notices:?}"
    );
}

#[test]
fn addresses_are_kine_s() {
    for (address, url) in [
        ("127.0.0.1:1", "http://127.0.0.1:1"),
        (":1", "http://0.0.0.0:1"),
        ("tcp://127.0.0.1:1", "http://127.0.0.1:1"),
        ("[::1]:1", "http://[::1]:1"),
        ("unix:///run/k0s/kine/kine.sock:2379", "unix:///run/k0s/kine/kine.sock:2379"),
        ("unix://kine.sock", "unix://kine.sock"),
        ("", "unix://kine.sock"),
    ] {
        let settings = settings(&["--listen-address", address, "--metrics-bind-address=0"]);
        assert_eq!(addresses(&settings.listen), [url], "{address}");
        assert!(settings.listen_metrics.is_empty());
    }
    let settings = settings(&["--listen-address=unix:///run/k0s/kine/kine.sock:2379"]);
    assert_eq!(settings.listen[0].address, ListenAddress::Unix("/run/k0s/kine/kine.sock:2379".into()));
}

#[test]
fn compaction_needs_an_interval() {
    let of = |args: &[&str]| settings(args).auto_compaction;
    let minute = Duration::from_mins(1);
    assert_eq!(of(&["--compact-min-retain=5"]), None);
    assert_eq!(of(&["--compact-interval=0"]), None);
    assert_eq!(of(&["--compact-interval=-5s"]), None);
    let every_minute = |kept| Some(AutoCompaction::Revision { kept, interval: minute });
    assert_eq!(of(&["--compact-interval=1m"]), every_minute(1000));
    assert_eq!(of(&["-compact-interval", "60s", "-compact-min-retain", "5"]), every_minute(5));
}

#[test]
fn variables_count_below_flags_and_empty_ones_not_at_all() {
    let variables = [
        ("KINE_LISTEN_ADDRESS", "127.0.0.1:1"),
        ("KINE_METRICS_BIND_ADDRESS", "127.0.0.1:2"),
        ("KINE_COMPACT_INTERVAL", ""),
        ("KINE_ENDPOINT", "nats://h"),
        ("KINE_DEBUG", "1"),
        ("JETWAY_BUCKET", "b"),
        ("ETCD_NAME", "a"),
        ("AWS_REGION", "here"),
        ("KINE_ENDPONT", "c"),
        ("JETWAY_BUKET", "d"),
    ];
    let settings = settings_in(&["--listen-address=127.0.0.1:3"], &variables).expect("good variables");
    assert_eq!(addresses(&settings.listen), ["http://127.0.0.1:3"]);
    assert_eq!(addresses(&settings.listen_metrics), ["http://127.0.0.1:2"]);
    assert!(settings.log.filter.starts_with("debug"));
    assert!(matches!(&settings.storage, Storage::External(endpoint) if endpoint.bucket == "b"));
    let unknown = |name: &str| format!("unrecognized environment variable {name}");
    assert_eq!(notices(&settings), [unknown("JETWAY_BUKET"), unknown("KINE_ENDPONT")]);
    assert_eq!(settings.name, "default");
}

/// kine takes a URL without a host for its embedded server, which needs no TLS here.
#[test]
fn an_endpoint_without_a_host_is_the_embedded_server() {
    let settings = settings(&["--endpoint=nats://?bucket=b&dataDir=/d&dontListen", "--ca-file=/no/such"]);
    assert!(matches!(&settings.storage, Storage::Embedded { bucket, data_dir, .. }
        if bucket == "b" && data_dir.as_os_str() == "/d"));
    let notices = notices(&settings);
    assert!(
        notices.len() == 2 && notices[0].contains("--ca-file") && notices[1].contains("dontListen"),
        "{notices:?}"
    );
}

#[test]
fn each_reason_has_one_notice() {
    let args = [
        "--endpoint=nats://h",
        "--slow-sql-threshold=-1s",
        "--datastore-max-open-connections=5",
        "--compact-timeout=1s",
        "--skip-verify",
        "--s3-bucket=b",
        "--emulated-etcd-version=3.5.13",
    ];
    let settings = settings(&args);
    let notices = notices(&settings);
    assert_eq!(notices.len(), 5, "{notices:?}");
    assert!(
        notices.contains(
            &"--datastore-max-open-connections --slow-sql-threshold have no effect: there is no SQL database"
        ),
        "{notices:?}"
    );
}

#[test]
fn every_flag_is_taken_with_its_own_default() {
    let args: Vec<_> = FLAGS
        .iter()
        .filter(|flag| flag.name != "version")
        .map(|flag| format!("--{}={}", flag.name, flag.default))
        .collect();
    settings(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let variables: Vec<_> = FLAGS.iter().filter_map(|flag| Some((variable(flag)?, flag.default))).collect();
    let variables: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let settings = settings_in(&[], &variables).expect("defaults");
    assert!(!notices(&settings).iter().any(|text| text.contains("unrecognized")), "{:?}", notices(&settings));
}

#[test]
fn mistakes_name_flag_value_and_remedy() {
    for (args, words) in [
        (&["--nope"][..], &["Incorrect Usage: flag provided but not defined: -nope", "--help"][..]),
        (&["--listen-peer-urls=http://a:1"], &["not defined: -listen-peer-urls"]),
        (&["foo"], &["kine does not accept positional arguments, only flags"]),
        (&["--", "foo"], &["positional arguments"]),
        (&["--endpoint"], &["flag needs an argument: -endpoint"]),
        (&["---x"], &["bad flag syntax: ---x"]),
        (&["--compact-interval=abc"], &["invalid value \"abc\" for flag -compact-interval: parse error"]),
        (
            &["--compact-min-retain", "1.5"],
            &["invalid value \"1.5\" for flag -compact-min-retain: parse error"],
        ),
        (&["--debug=maybe"], &["invalid boolean value \"maybe\" for -debug: parse error"]),
        (&["--log-format=xml"], &["invalid log format: xml", "plain or json"]),
        (&["--listen-address=nowhere"], &["--listen-address nowhere", "host:port"]),
        (&["--listen-address=example.test:1"], &["--listen-address example.test:1", "expected IP"]),
        (&["--metrics-bind-address=8080"], &["--metrics-bind-address 8080", "host:port"]),
        (&["--server-cert-file=c"], &["--server-cert-file", "--server-key-file"]),
        (&["--endpoint=nats://h", "--key-file=k"], &["--key-file needs --cert-file"]),
        (&["--endpoint=nats://h", "--ca-file=/no/such"], &["--ca-file /no/such"]),
        (&["--endpoint=sqlite:///db"], &["sqlite", "SQLite", "nats://", "embedded"]),
        (&["--endpoint=postgres://u:secret@h/db"], &["PostgreSQL", "nats://"]),
        (&["--endpoint=mysql://u:secret@tcp(h:3306)/db"], &["MySQL", "nats://"]),
        (&["--endpoint=http://h:2379"], &["an etcd", "nats://"]),
        (&["--endpoint=u:secret@h"], &["no scheme", "nats://"]),
        (&["--endpoint=foo://h"], &["--endpoint", "foo", "nats"]),
    ] {
        let error = settings_in(args, &[]).expect_err("a mistake").to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{args:?}: {error}");
        assert!(!error.contains("secret"), "{args:?}: {error}");
    }
    for (variable, words) in [
        (
            ("KINE_COMPACT_INTERVAL", "abc"),
            "could not parse \"abc\" as duration value from environment variable \"KINE_COMPACT_INTERVAL\" for flag \
             compact-interval",
        ),
        (("KINE_DEBUG", "maybe"), "could not parse \"maybe\" as bool value from environment variable"),
        (("KINE_COMPACT_MIN_RETAIN", "x"), "could not parse \"x\" as int value from environment variable"),
    ] {
        let error = settings_in(&[], &[variable]).expect_err("a mistake").to_string();
        assert!(error.contains(words), "{variable:?}: {error}");
    }
}

/// The table in the page.
fn table() -> String {
    let mut text = "| flag | as in kine? | default | |\n|---|---|---|---|\n".to_owned();
    let is_alike =
        |one: &Flag, next: &Flag| one.effect == next.effect && matches!(one.effect, Effect::None(_));
    for group in FLAGS.chunk_by(is_alike) {
        let names: Vec<_> = group.iter().map(|flag| format!("`--{}`", flag.name)).collect();
        let flag = &group[0];
        let (verdict, default) = match flag.effect {
            Effect::None(_) => ("no effect", ""),
            Effect::Same => ("same", flag.default),
            _ => ("partly", flag.default),
        };
        let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
        writeln!(text, "| {} | {verdict} | {default} | {} |", names.join(", "), flag.help).expect("a string");
    }
    text
}

#[test]
fn the_page_has_the_table() {
    let table = table();
    assert!(
        include_str!("FLAGS.md").contains(&table),
        "the table in src/cli/kine/FLAGS.md should be\n\n{table}"
    );
}
