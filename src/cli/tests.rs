//! Tests of the whole way from arguments to settings.

use super::compaction::AutoCompaction;
use super::listen::ListenAddress;
use super::program::Program;
use super::settings::ServerSettings;
use super::storage::Storage;
use super::{Invocation, Reason, read_task};
use std::ffi::OsString;
use std::time::Duration;

fn settings_of(program: Program, args: &[&str]) -> Result<ServerSettings, Reason> {
    match read_task(program, args.iter().map(OsString::from), []) {
        Ok(Invocation::Serve(settings)) => Ok(*settings),
        Ok(other) => panic!("{other:?}"),
        Err(reason) => Err(reason),
    }
}

fn settings(args: &[&str]) -> Result<ServerSettings, Reason> {
    settings_of(Program::Jetway, args)
}

#[test]
fn defaults_are_an_embedded_server_on_loopback() {
    let settings = settings(&[]).expect("defaults");
    assert_eq!(settings.listen[0].address, ListenAddress::Tcp(([127, 0, 0, 1], 2379).into()));
    assert_eq!(settings.advertise, ["http://127.0.0.1:2379"]);
    assert!(
        matches!(settings.storage, Storage::Embedded { data_dir, .. } if data_dir.as_os_str() == "default.jetway")
    );
    assert_eq!((settings.quota_bytes, settings.progress_interval), (2 << 30, Duration::from_secs(5)));
    assert!(settings.tls.is_none() && settings.notices.is_empty() && settings.without_effect.is_empty());
}

#[test]
fn called_as_etcd_the_defaults_are_etcd_s() {
    let settings = settings_of(Program::Etcd, &[]).expect("defaults");
    assert_eq!(settings.advertise, ["http://localhost:2379"]);
    assert!(
        matches!(settings.storage, Storage::Embedded { data_dir, .. } if data_dir.as_os_str() == "default.etcd")
    );
    assert_eq!(settings.progress_interval, Duration::from_mins(10));
    let error = settings_of(Program::Etcd, &["--listen-client-urls", "http://127.0.0.1:1"])
        .expect_err("etcd refuses it")
        .to_string();
    assert!(error.contains("--advertise-client-urls is required"), "{error}");
}

#[test]
fn auto_compaction_is_read_as_etcd_reads_it() {
    use AutoCompaction::Periodic;
    let revision = |kept| AutoCompaction::Revision { kept, interval: Duration::from_mins(5) };
    let hours = |hours: u64| Periodic(Duration::from_secs(hours * 3600));
    for (mode, retention, expected) in [
        ("periodic", "0", None),
        ("periodic", "5", Some(hours(5))),
        ("periodic", "5m", Some(Periodic(Duration::from_mins(5)))),
        ("revision", "1000", Some(revision(1000))),
        ("revision", "0", None),
        ("revision", "1s", Some(revision(1_000_000_000))),
    ] {
        let args = ["--auto-compaction-mode", mode, "--auto-compaction-retention", retention];
        assert_eq!(settings(&args).expect(retention).auto_compaction, expected, "{args:?}");
    }
}

#[test]
fn mistakes_name_flag_value_and_remedy() {
    let two = "a=http://127.0.0.1:1,b=http://127.0.0.1:2";
    let own = ["--name", "a", "--initial-advertise-peer-urls"];
    let in_cluster = [&own[..], &["http://127.0.0.1:1", "--initial-cluster", two]].concat();
    let two = "a=https://127.0.0.1:1,b=https://127.0.0.1:2";
    let over_tls =
        ["https://127.0.0.1:1", "--listen-peer-urls", "https://127.0.0.1:1", "--initial-cluster", two];
    let over_tls = [&own[..], &over_tls].concat();
    let two = "a=http://127.0.0.1:1,b=http://127.0.0.1:2";
    for (args, words) in [
        (&["--listen-client-urls", "https://127.0.0.1:1"][..], &["--cert-file", "https://127.0.0.1:1"][..]),
        (&["--listen-client-urls", "unix://"], &["--listen-client-urls", "unix:///path"]),
        (&["--listen-client-urls", "http://example.test:1"], &["example.test", "0.0.0.0"]),
        (
            &["--listen-client-urls", "http://127.0.0.1:1,https://127.0.0.1:1"],
            &["one port", "--listen-client-urls"],
        ),
        (
            &["--listen-client-urls=http://127.0.0.1:1", "--listen-client-http-urls=http://127.0.0.1:1"],
            &["cannot bind both"],
        ),
        (
            &["--cert-file", "c", "--listen-client-urls", "https://127.0.0.1:1"],
            &["must both be present", "--key-file"],
        ),
        (&["--advertise-client-urls", "http://:1"], &["--advertise-client-urls", "unexpected empty host"]),
        (&["--endpoint", "nats://,nats://h"], &["--endpoint", "host"]),
        (
            &["--endpoint", "nats://?dataDir=/d", "--data-dir", "/e"],
            &["--data-dir", "dataDir=", "one of them"],
        ),
        (
            &["--endpoint", "nats://?serverConfig=/c", "--nats-config", "/d"],
            &["--nats-config", "serverConfig="],
        ),
        (
            &["--endpoint", "nats://h", "--nats-creds", "c", "--nats-nkey", "n"],
            &["--nats-creds", "--nats-nkey"],
        ),
        (&["--endpoint", "nats://h", "--nats-context", "c"], &["--nats-context c", "--endpoint"]),
        (&["--nats-context", "/no/such.json"], &["--nats-context", "/no/such.json", "nats context ls"]),
        (&["--nats-js-domain", "a.b"], &["--nats-js-domain", "a.b", "letters"]),
        (
            &["--endpoint", "nats://h", "--nats-js-api-prefix", "a..b"],
            &["--nats-js-api-prefix", "a..b", "$JS.hub.API"],
        ),
        (&["--endpoint", "nats://h", "--nats-inbox-prefix", "a.>"], &["--nats-inbox-prefix", "a.>"]),
        (
            &["--endpoint", "nats://h", "--nats-js-domain", "d", "--nats-js-api-prefix", "p"],
            &["--nats-js-domain", "--nats-js-api-prefix"],
        ),
        (&["--bucket", "a.b"], &["--bucket", "a.b", "letters"]),
        (&["--nats-token", "t"], &["--nats-token: ", "--endpoint"]),
        (&["--max-request-bytes", "100000000"], &["--max-request-bytes", "100000000", "at most"]),
        (
            &["--name", "a", "--initial-cluster", two],
            &["--initial-advertise-peer-urls=http://localhost:2380"],
        ),
        (
            &[&in_cluster[..], &["--listen-peer-urls", "https://127.0.0.1:1"]].concat(),
            &["a=http://127.0.0.1:1", "another scheme", "https://127.0.0.1:1"],
        ),
        (
            &[&in_cluster[..], &["--listen-peer-urls", "http://127.0.0.1:1,http://127.0.0.2:1"]].concat(),
            &["--listen-peer-urls", "one URL"],
        ),
        (
            &[&over_tls[..], &["--peer-auto-tls", "--peer-crl-file", "f"]].concat(),
            &["--peer-crl-file", "cannot be enforced"],
        ),
        (
            &[
                &own[..],
                &["http://127.0.0.1:1", "--initial-cluster", "a=http://127.0.0.1:1,=http://127.0.0.1:2"],
            ]
            .concat(),
            &["has no name", "must start before"],
        ),
        (&over_tls, &["KeyFile and CertFile are not presented", "--peer-auto-tls"]),
        (&["--initial-cluster", "b=http://127.0.0.1:2"], &["couldn't find local name \"default\""]),
        (&["--initial-cluster", "default"], &["--initial-cluster", "name=http"]),
        (&["--initial-cluster-state", "existing"], &["existing", "default.jetway", "new"]),
        (
            &["--discovery-endpoints", "http://e:1", "--discovery-token", "t"],
            &["--discovery-endpoints", "--endpoint"],
        ),
        (&["--discovery-token", "t"], &["both --discovery-token and --discovery-endpoints"]),
        (&["--discovery-fallback", "proxy"], &["v2 proxy is deprecated"]),
        (&["--auto-compaction-mode", "weekly"], &["unknown auto-compaction-mode \"weekly\""]),
        (&["--auto-compaction-retention", "a"], &["error parsing CompactionRetention"]),
        (&["--snapshot-schedule", "daily"], &["--snapshot-schedule daily", "such as 1h"]),
        (&["--snapshot-schedule", "0 0 30 2 *"], &["0 0 30 2 *", "no such time"]),
        (&["--snapshot-schedule", "1h"], &["--snapshot-dir"]),
        (
            &["--snapshot-schedule", "1h", "--snapshot-dir", "gs://b/p"],
            &["--snapshot-dir gs://b/p", "s3://BUCKET/PREFIX"],
        ),
        (&["--snapshot-dir", "d"], &["--snapshot-dir", "--snapshot-schedule", "such as 1h"]),
        (
            &["--snapshot-schedule", "1h", "--snapshot-dir", "d", "--snapshot-retention", "0"],
            &["--snapshot-retention 0", "number of files"],
        ),
        (&["--heartbeat-interval", "500"], &["--election-timeout[1000ms] should be at least"]),
        (&["--tls-min-version", "1"], &["unexpected TLS version"]),
        (&["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"], &["is greater than max"]),
        (&["--feature-gates", "LeaseCheckpointPersist=true"], &["requires enabling feature gate"]),
        (&["--log-level", "loud"], &["unrecognized level"]),
        (&["--log-format", "xml"], &["unknown log format: xml"]),
        (&["--logger", "capnslog"], &["--logger=capnslog is removed"]),
        (&["--log-outputs", "default,stdout"], &["multi logoutput for \"default\""]),
        (&["--enable-log-rotation"], &["--log-outputs requires a single file path"]),
    ] {
        let error = settings(args).expect_err("a mistake").to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{args:?}: {error}");
    }
}

#[test]
fn several_members_need_no_cluster_over_an_existing_nats() {
    let two = "a=http://127.0.0.1:1,b=http://127.0.0.1:2";
    settings(&["--endpoint", "nats://h", "--name", "a", "--initial-cluster", two])
        .expect("one store for all");
    let urls = "http://127.0.0.1:1,http://127.0.0.2:1";
    let cluster = "a=http://127.0.0.1:1,a=http://127.0.0.2:1";
    let flags = ["--name", "a", "--initial-cluster", cluster, "--initial-advertise-peer-urls", urls];
    settings(&flags).expect("one member");
}

#[test]
fn the_data_of_an_etcd_is_not_hidden() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("member")).expect("made");
    let path = dir.path().display().to_string();
    let error = settings(&["--data-dir", &path]).expect_err("not ours").to_string();
    let command = format!("jetway restore {path} --data-dir {path}.jetway");
    assert!(error.contains("data of an etcd") && error.contains(&command), "{error}");
}

#[test]
fn the_store_of_a_kine_is_not_hidden() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("jetstream")).expect("made");
    let endpoint = format!("nats://?dataDir={}", dir.path().display());
    let error = settings(&["--endpoint", &endpoint]).expect_err("not ours").to_string();
    assert!(error.contains("JetStream store of another nats-server"), "{error}");
}

#[test]
fn certificates_for_a_port_without_tls_are_reported() {
    let settings = settings(&["--cert-file", "c", "--client-cert-auth"]).expect("as etcd");
    let notices: Vec<_> = settings.notices.iter().map(|notice| notice.text.as_str()).collect();
    assert!(settings.tls.is_none());
    assert!(
        notices[0].contains("ignoring key and cert files")
            && notices[1].contains("ignoring client cert auth")
    );
}

#[test]
fn kine_s_endpoints_choose_the_storage() {
    let storage = |endpoint: &str| settings(&["--endpoint", endpoint]).expect(endpoint).storage;
    let Storage::Embedded { data_dir, config, bucket, .. } =
        storage("nats://?bucket=b&dataDir=/d&serverConfig=/c")
    else {
        panic!("an embedded server")
    };
    assert_eq!((data_dir, config, bucket), ("/d".into(), Some("/c".into()), "b".to_owned()));
    for endpoint in ["nats://?noEmbed", "jetstream://"] {
        assert!(
            matches!(storage(endpoint), Storage::External(to) if to.servers == ["nats://127.0.0.1:4222"])
        );
    }
    let slow = |args: &[&str]| settings(args).expect("harmless").warning_unary_request_duration.as_millis();
    assert_eq!(slow(&["--endpoint", "nats://h?slowMethod=700ms"]), 700);
    let both = ["--endpoint", "nats://h?slowMethod=700ms", "--warning-unary-request-duration", "1s"];
    assert_eq!(slow(&both), 1000);
    assert_eq!(slow(&["--endpoint", "nats://h"]), 300);
}

#[test]
fn flags_without_effect_are_reported() {
    let args = [
        "--heartbeat-interval",
        "100",
        "--peer-cert-file",
        "c",
        "--data-dir",
        "d",
        "--nats-server",
        "n",
        "--endpoint",
        "nats://h",
    ];
    let settings = settings(&args).expect("harmless");
    assert_eq!(settings.without_effect, ["data-dir", "nats-server", "peer-cert-file"]);
}
