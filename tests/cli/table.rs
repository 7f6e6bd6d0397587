//! The table in `src/cli/FLAGS.md`, held to the flags that etcd's help prints.

use std::collections::{BTreeMap, BTreeSet};

use crate::program::{Ended, Program, WorkingFolder, etcdctl};
use support::eventually;
use support::server::Port;

/// Names in etcd's help that etcd itself does not know.
const UNDEFINED: [&str; 2] = ["discovery", "discovery-proxy"];

/// Flags and the default that etcd's help shows for each.
async fn flags_of_etcd() -> BTreeMap<String, String> {
    let folder = WorkingFolder::new();
    let mut command = folder.command(Program::Etcd);
    command.arg("--help");
    let help = folder.run(command).await.output;
    let flags = help.lines().filter_map(|line| line.strip_prefix("  --"));
    let flags: BTreeMap<_, _> = flags
        .map(|line| line.split_once(' ').unwrap_or((line, "")))
        .map(|(name, default)| (name.to_owned(), default.trim_matches('\'').to_owned()))
        .filter(|(name, _)| !UNDEFINED.contains(&name.as_str()))
        .collect();
    assert!(flags.len() > 100, "etcd's help has another form: {help}");
    flags
}

/// The second column of the table, by flag.
fn verdicts() -> BTreeMap<String, String> {
    let page = include_str!("../../src/cli/FLAGS.md");
    let rows = page.lines().filter(|line| line.starts_with("| `--"));
    let rows = rows.map(|row| row.split(" | ").collect::<Vec<_>>());
    rows.flat_map(|cells| {
        let names = cells[0].split('`').filter_map(|part| part.strip_prefix("--"));
        names.map(|name| (name.to_owned(), cells[1].to_owned())).collect::<Vec<_>>()
    })
    .collect()
}

#[tokio::test]
async fn the_table_has_every_flag_of_etcd() {
    let flags: BTreeSet<_> = flags_of_etcd().await.into_keys().collect();
    let verdicts = verdicts();
    let missing: Vec<_> = flags.iter().filter(|flag| !verdicts.contains_key(*flag)).collect();
    assert!(missing.is_empty(), "not in the table: {missing:?}");
    let own = |name: &str| verdicts[name] == "jetway's own" || matches!(name, "config-file" | "version");
    let foreign: Vec<_> = verdicts.keys().filter(|name| !own(name) && !flags.contains(*name)).collect();
    assert!(foreign.is_empty(), "not in etcd's help: {foreign:?}");
}

/// The same value for each flag: a wrong one is refused with the same text, a right one goes on to
/// the argument that is no flag.
#[tokio::test]
async fn values_are_checked_as_etcd_checks_them() {
    for flag in flags_of_etcd().await.into_keys() {
        let mut answers = Vec::new();
        for program in [Program::Etcd, Program::Link] {
            let folder = WorkingFolder::new();
            let mut command = folder.command(program);
            command.args([&format!("--{flag}=zzzz"), "argument"]);
            let Ended { status, output } = folder.run(command).await;
            let refused = output.lines().next().filter(|_| status == 2).unwrap_or_default().to_owned();
            answers.push((status, refused));
        }
        assert_eq!(answers[0].0, answers[1].0, "--{flag}: {answers:?}");
        assert!(answers[1].1.starts_with(&answers[0].1), "--{flag}: {answers:?}");
    }
}

/// A value for each flag, such that all of them together make sense.
fn value(flag: &str, default: &str, folder: &WorkingFolder, ports: &[Port; 3]) -> String {
    let url = |at: usize| format!("http://127.0.0.1:{}", ports[at].number);
    match flag {
        "listen-client-urls" | "advertise-client-urls" => url(0),
        "listen-client-http-urls" => url(1),
        "listen-metrics-urls" => url(2),
        "data-dir" => folder.arg("data"),
        "log-outputs" => folder.arg("file.log"),
        "cors" => "http://example.test:1".into(),
        "auto-compaction-retention" | "max-concurrent-streams" => "1000".into(),
        "auto-compaction-mode" => "revision".into(),
        "feature-gates" => "InitialCorruptCheck=true".into(),
        "tls-max-version" => "TLS1.3".into(),
        "metrics" => "extensive".into(),
        "backend-batch-interval" | "compaction-sleep-interval" | "downgrade-check-time" => "1s".into(),
        "bootstrap-defrag-threshold-megabytes" | "snapshot-catchup-entries" => "1".into(),
        // It goes with no --initial-cluster. `tests/cluster` has a name server for it.
        "discovery-srv" => String::new(),
        "memory-mlock" | "enable-grpc-gateway" => "true".into(),
        _ if default == "false" => "true".into(),
        _ if default.is_empty() => "anything".into(),
        _ => default.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_flag_is_accepted_or_refused_as_in_the_table() {
    let verdicts = verdicts();
    let flags = flags_of_etcd().await;
    let folder = WorkingFolder::new();
    let ports = [Port::claim(), Port::claim(), Port::claim()];
    let mut command = folder.command(Program::Link);
    let mut idle = BTreeSet::new();
    for (flag, default) in &flags {
        let verdict = verdicts[flag].as_str();
        if verdict == "refused" {
            let folder = WorkingFolder::new();
            let mut command = folder.command(Program::Link);
            command.arg(format!("--{flag}=anything"));
            let Ended { status, output } = folder.run(command).await;
            assert_eq!(status, 1, "--{flag}: {output}");
            assert!(output.contains(&format!("--{flag}")), "{output}");
            continue;
        }
        if verdict == "no effect" {
            idle.insert(format!("--{flag}"));
        }
        command.arg(format!("--{flag}={}", value(flag, default, &folder, &ports)));
    }
    // The log goes to a file, so the line is not in the output of the start.
    let log = folder.path("file.log");
    let server = folder.start_logging_to(command, &log).await;
    let line = server.line("these flags have no effect here").expect("a line in the log");
    let logged: BTreeSet<_> = line["flags"].as_str().unwrap().split(' ').map(str::to_owned).collect();
    assert_eq!(logged, idle);
}

/// The flag `--warning-unary-request-duration`, in the form of etcd's line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_servers_log_slow_calls() {
    for program in [Program::Etcd, Program::Link] {
        let folder = WorkingFolder::new();
        let port = Port::claim();
        let url = format!("http://127.0.0.1:{}", port.number);
        let mut command = folder.command(program);
        command.args(["--warning-unary-request-duration=1ns", "--listen-peer-urls=http://127.0.0.1:0"]);
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url, "--data-dir", "data"]);
        let server = folder.start(command).await;
        etcdctl(&[format!("--endpoints={url}")], &["put", "a", "b"]);
        let line = eventually("the line", async || server.line("request stats")).await;
        assert!(line["level"] == "warn" && line["time spent"].is_string(), "{program:?}: {line}");
    }
}
