//! kine's command line: called by a link named `kine`, jetway serves with the command lines that start kine
//! in the world, and refuses in kine's words.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::program::{Ended, Running, WorkingFolder, etcdctl};
use support::certificates::{Material, Template};
use support::eventually;
use support::http::http;
use support::nats::Nats;
use support::server::{Port, peer, spawn};

fn kine(folder: &WorkingFolder, args: &[&str]) -> Command {
    let mut command = folder.command_of(folder.path("kine"));
    command.args(args);
    command
}

fn local(port: &Port) -> String {
    format!("127.0.0.1:{}", port.number)
}

/// The first lines of a watch from the first revision on.
fn watched(flags: &[String], key: &str, lines: usize) -> Vec<String> {
    let mut command = Command::new(peer("JETWAY_TEST_ETCDCTL", "etcdctl"));
    command.args(flags).args(["watch", key, "--rev=1"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = spawn(command).unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let lines = output.lines().take(lines).map(Result::unwrap).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    lines
}

/// Warnings that the command line is the reason of.
fn warnings(server: &Running) -> Vec<String> {
    let log = server.log();
    let warnings = log.lines().filter(|line| line.contains("WARN") && line.contains("--"));
    warnings.map(str::to_owned).collect()
}

/// The calls with which k0s decides that kine is ready.
fn is_ready_for_k0s(flags: &[String]) {
    let lease = etcdctl(flags, &["lease", "grant", "64"]);
    let lease = lease.split_whitespace().nth(1).unwrap();
    assert_eq!(etcdctl(flags, &["put", "/k0s-health-check", "value", "--lease", lease]), "OK\n");
    assert_eq!(etcdctl(flags, &["get", "/k0s-health-check"]), "/k0s-health-check\nvalue\n");
    assert_eq!(watched(flags, "/k0s-health-check", 3), ["PUT", "/k0s-health-check", "value"]);
}

/// The command line that k0s 1.36 gives to kine, but for paths and for the address of the metrics, which is
/// `:2380` there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k0s() {
    // The default of 1 MiB is below that of a request, and would be warned of.
    let nats = Nats::start_with("max_payload: 8MB").await;
    let folder = WorkingFolder::new();
    std::fs::create_dir_all(folder.path("run/kine")).unwrap();
    let metrics = Port::claim();
    let socket = folder.arg("run/kine/kine.sock:2379");
    let args = [
        "--compact-interval=0".to_owned(),
        format!("--endpoint={}", nats.endpoint()),
        format!("--listen-address=unix://{socket}"),
        format!("--metrics-bind-address={}", local(&metrics)),
    ];
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let flags = [format!("--endpoints=unix://{socket}")];
    let server = folder.start(kine(&folder, &args)).await;
    assert_eq!(warnings(&server), Vec::<String>::new());
    is_ready_for_k0s(&flags);
    for path in ["/metrics", "/health"] {
        let answer = http(&local(&metrics), "GET", path).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    // k0s starts it again on the same socket, after a crash too.
    drop(server);
    assert!(Path::new(&socket).exists());
    let server = folder.start(kine(&folder, &args)).await;
    assert_eq!(etcdctl(&flags, &["get", "/k0s-health-check", "--print-value-only"]), "value\n");
    assert_eq!(server.stop().await, Some(0));
}

/// The configuration that k0smotron's entrypoint writes for the NATS of kine, but for its paths and the port,
/// and the command line that k0s makes of k0smotron's `dataSource` then. The store is that of the file, which
/// is a volume there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k0smotron() {
    let folder = WorkingFolder::new();
    let [listen, metrics] = [Port::claim(), Port::claim()];
    let (config, store) = (folder.path("nats.conf"), folder.path("nats-data"));
    std::fs::create_dir(&store).unwrap();
    let text = format!(
        "server_name: kmc-test-0\nlisten: {}\njetstream {{\n  store_dir: {}\n}}\n",
        local(&listen),
        store.display()
    );
    std::fs::write(&config, &text).unwrap();
    let socket = folder.arg("kine.sock:2379");
    let args = |data_source: &str| {
        [
            "--compact-interval=0".to_owned(),
            format!("--endpoint={data_source}"),
            format!("--listen-address=unix://{socket}"),
            format!("--metrics-bind-address={}", local(&metrics)),
        ]
    };
    let of_one = args(&format!("nats://?serverConfig={}", config.display()));
    let of_one: Vec<_> = of_one.iter().map(String::as_str).collect();
    let flags = [format!("--endpoints=unix://{socket}")];
    let server = folder.start(kine(&folder, &of_one)).await;
    let logged = warnings(&server);
    assert!(
        logged.len() == 1 && logged[0].contains("serverConfig") && logged[0].contains("server_name"),
        "{logged:?}"
    );
    is_ready_for_k0s(&flags);
    // The port in the file stays free, as kine leaves it.
    drop(std::net::TcpListener::bind(local(&listen)).expect("nobody listens there"));
    assert_eq!(server.stop().await, Some(0));
    assert!(store.join("nats/jetstream").is_dir());
    let server = folder.start(kine(&folder, &of_one)).await;
    assert_eq!(etcdctl(&flags, &["get", "/k0s-health-check", "--print-value-only"]), "value\n");
    assert_eq!(server.stop().await, Some(0));

    // Several replicas would be a NATS cluster of kine's own.
    std::fs::write(&config, format!("{text}cluster {{ name: kmc-test, listen: 127.0.0.1:-1 }}\n")).unwrap();
    let of_three = args(&format!("nats://?serverConfig={}&replicas=3", config.display()));
    let of_three: Vec<_> = of_three.iter().map(String::as_str).collect();
    let Ended { status, output } = folder.run(kine(&folder, &of_three)).await;
    assert!(status == 1 && output.contains("replicas=3") && output.contains("NATS cluster"), "{output}");
    // A store that kine has filled is not taken for an empty one.
    std::fs::write(&config, &text).unwrap();
    std::fs::create_dir_all(store.join("jetstream/$G/streams/KV_kine")).unwrap();
    let Ended { status, output } = folder.run(kine(&folder, &of_one)).await;
    assert!(status == 1 && output.contains("nats-data"), "{output}");
}

/// Without an endpoint kine uses SQLite. jetway warns that it does not, and keeps the data itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_endpoint_the_store_is_embedded() {
    let folder = WorkingFolder::new();
    let port = Port::claim();
    let address = local(&port);
    let args = ["--listen-address", &address, "-metrics-bind-address", "0", "--debug"];
    let flags = [format!("--endpoints={address}")];
    let server = folder.start(kine(&folder, &args)).await;
    let found = warnings(&server);
    assert!(
        found.len() == 1 && found[0].contains("SQLite") && found[0].contains("default.jetway"),
        "{found:?}\n{}",
        server.log()
    );
    assert!(server.log().contains("DEBUG"), "{}", server.log());
    assert_eq!(etcdctl(&flags, &["put", "a", "1"]), "OK\n");
    assert_eq!(server.stop().await, Some(0));
    let server = folder.start(kine(&folder, &args)).await;
    assert_eq!(etcdctl(&flags, &["get", "a"]), "a\n1\n");
    assert_eq!(server.stop().await, Some(0));
    assert!(folder.path("default.jetway").is_dir());
}

/// The interval and the rest of the history are kine's flags, from variables here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compactions_leave_the_newest_revisions() {
    let folder = WorkingFolder::new();
    let address = local(&Port::claim());
    let mut command = kine(&folder, &[]);
    command.envs([
        ("KINE_LISTEN_ADDRESS", address.as_str()),
        ("KINE_METRICS_BIND_ADDRESS", "0"),
        ("KINE_COMPACT_INTERVAL", "100ms"),
        ("KINE_COMPACT_MIN_RETAIN", "5"),
        ("KINE_LOG_FORMAT", "json"),
    ]);
    let server = folder.start(command).await;
    let flags = [format!("--endpoints={address}")];
    for value in 2..=20 {
        etcdctl(&flags, &["put", "a", &value.to_string()]);
    }
    eventually("a compaction at the revision", async || {
        let line =
            server.log().lines().rev().find(|line| line.contains("completed auto compaction"))?.to_owned();
        let line: serde_json::Value = serde_json::from_str(&line).ok()?;
        (line["revision"].to_string().trim_matches('"') == "15").then_some(())
    })
    .await;
    assert_eq!(etcdctl(&flags, &["get", "a", "--rev=15", "--print-value-only"]), "15\n");
    let mut old = Command::new(peer("JETWAY_TEST_ETCDCTL", "etcdctl"));
    old.args(&flags).args(["get", "a", "--rev=14"]);
    let Ended { status, output } = folder.run(old).await;
    assert!(status != 0 && output.contains("required revision has been compacted"), "{output}");
    drop(server);
}

/// TLS on both sides, with a certificate that clients and NATS ask for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_of_clients_and_of_nats_have_flags_of_their_own() {
    let material = Material::create();
    material.serve(Template { name: "server", hosts: &["127.0.0.1", "localhost"], ..Template::default() });
    let pair = material.authority.issue(Template { name: "client", ..Template::default() });
    material.write("client.pem", pair.cert);
    material.write("client.key", pair.key);
    let file = |flag: &str, name: &str| format!("--{flag}={}", material.arg(name));
    let tls = format!(
        "max_payload: 8MB\ntls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
        material.arg("server.pem"),
        material.arg("server.key"),
        material.arg("ca.pem")
    );
    let nats = Nats::start_with(&tls).await;
    let folder = WorkingFolder::new();
    let [client, metrics] = [Port::claim(), Port::claim()];
    let args = [
        format!("--endpoint=tls://{}", nats.address()),
        file("ca-file", "ca.pem"),
        file("cert-file", "client.pem"),
        file("key-file", "client.key"),
        file("server-cert-file", "server.pem"),
        file("server-key-file", "server.key"),
        file("trusted-ca-file", "ca.pem"),
        "--metrics-ignore-tls-config".to_owned(),
        format!("--listen-address={}", local(&client)),
        format!("--metrics-bind-address={}", local(&metrics)),
    ];
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let server = folder.start(kine(&folder, &args)).await;
    assert_eq!(warnings(&server), Vec::<String>::new());
    let flags = [
        format!("--endpoints=https://{}", local(&client)),
        file("cacert", "ca.pem"),
        file("cert", "client.pem"),
        file("key", "client.key"),
    ];
    assert_eq!(etcdctl(&flags, &["put", "a", "1"]), "OK\n");
    assert_eq!(http(&local(&metrics), "GET", "/metrics").await.status, 200);
    let mut without = Command::new(peer("JETWAY_TEST_ETCDCTL", "etcdctl"));
    without.args(&flags[..2]).args(["--dial-timeout=1s", "--command-timeout=1s", "get", "a"]);
    let Ended { status, output } = folder.run(without).await;
    assert_ne!(status, 0, "a client without a certificate: {output}");
    assert_eq!(server.stop().await, Some(0));

    // The metrics have the same TLS if no flag sets another.
    let args: Vec<_> = args.into_iter().filter(|arg| *arg != "--metrics-ignore-tls-config").collect();
    let server = folder.start(kine(&folder, &args)).await;
    let url = format!("https://{}/metrics", local(&metrics));
    let (ca, cert, key) = (material.arg("ca.pem"), material.arg("client.pem"), material.arg("client.key"));
    for (with, is_served) in [(&["--cert", &cert, "--key", &key][..], true), (&[], false)] {
        let mut curl = folder.command_of("curl".into());
        curl.args(["--silent", "--show-error", "--fail", "--cacert", &ca, &url]).args(with);
        let Ended { status, output } = folder.run(curl).await;
        assert_eq!(status == 0 && output.contains("etcd_server_is_leader"), is_served, "{with:?}: {output}");
    }
    assert_eq!(server.stop().await, Some(0));
}

/// Each flag that means nothing here is named once, with the reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_without_effect_are_taken_with_a_warning() {
    let folder = WorkingFolder::new();
    let idle = [
        "--skip-verify=true",
        "--datastore-max-idle-connections=5",
        "--datastore-max-open-connections=10",
        "--datastore-connection-max-lifetime=1m",
        "--datastore-connection-max-idle-time=1m",
        "--slow-sql-threshold=-1s",
        "--slow-sql-warning-threshold=2s",
        "--metrics-enable-profiling",
        "--emulated-etcd-version=3.5.13",
        "--compact-interval-jitter=10",
        "--compact-timeout=10s",
        "--compact-batch-size=500",
        "--poll-batch-size=100",
        "--peer-bind-address=127.0.0.1:0",
        "--peer-advertise-address=127.0.0.1:0",
        "--s3-bucket=b",
        "--s3-folder=f",
        "--s3-endpoint=http://127.0.0.1:1",
        "--s3-region=r",
        "--s3-access-key=a",
        "--s3-secret-key=s",
        "--s3-session-token=t",
        "--s3-profile=p",
        "--s3-ca-bundle=c",
    ];
    let address = local(&Port::claim());
    let mut command = kine(&folder, &["--metrics-bind-address=0", "--watch-progress-notify-interval=1s"]);
    command.args(["--listen-address", &address, "--ca-file=no-such-file"]).args(idle);
    let server = folder.start(command).await;
    let found = warnings(&server);
    for flag in idle.iter().chain(&["--ca-file"]) {
        let name = flag.split('=').next().unwrap();
        let lines = found.iter().filter(|line| line.split(' ').any(|word| word == name));
        assert_eq!(lines.count(), 1, "{name}: {found:?}");
    }
    assert!(found.iter().any(|line| line.contains("there is no SQL database")), "{found:?}");
    etcdctl(&[format!("--endpoints={address}")], &["put", "a", "b"]);
    assert_eq!(server.stop().await, Some(0));
}

/// The statuses and the words are those of kine 0.16.4, or name what jetway has in its place.
#[tokio::test]
async fn wrong_command_lines_are_refused_as_by_kine() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (args, words) in [
        (&["--nope"][..], &["flag provided but not defined: -nope"][..]),
        (
            &["--listen-client-urls=http://127.0.0.1:1"],
            &["flag provided but not defined: -listen-client-urls"],
        ),
        (&["serve"], &["kine does not accept positional arguments, only flags"]),
        (&["--compact-interval", "abc"], &["invalid value \"abc\" for flag -compact-interval: parse error"]),
        (&["--debug=maybe"], &["invalid boolean value \"maybe\" for -debug: parse error"]),
        (&["--log-format=xml"], &["invalid log format: xml"]),
        (&["--endpoint=sqlite://./db/state.db"], &["sqlite://", "nats://", "--endpoint"]),
        (&["--endpoint=mysql://u:hidden@tcp(127.0.0.1:1)/kine"], &["MySQL", "nats://"]),
        (&["--endpoint=postgres://u:hidden@127.0.0.1:1/kine"], &["PostgreSQL", "nats://"]),
        (&["--endpoint=http://127.0.0.1:2379"], &["etcd", "nats://"]),
        (&["--server-key-file=k"], &["--server-key-file", "--server-cert-file"]),
        (&["--metrics-bind-address=0", "--listen-address", &taken], &["--listen-address", "in use"]),
        (
            &["--listen-address=127.0.0.1:0", "--metrics-bind-address", &taken],
            &["--metrics-bind-address", "in use"],
        ),
    ] {
        let folder = WorkingFolder::new();
        let Ended { status, output } = folder.run(kine(&folder, args)).await;
        assert_eq!(status, 1, "{args:?}: {output}");
        assert!(words.iter().all(|word| output.contains(word)), "{args:?}: {output}");
        assert!(!output.contains("hidden") && !output.contains("panicked"), "{args:?}: {output}");
    }
    let folder = WorkingFolder::new();
    std::fs::create_dir(folder.path("db")).unwrap();
    std::fs::write(folder.path("db/state.db"), "").unwrap();
    let Ended { status, output } = folder.run(kine(&folder, &["--listen-address=127.0.0.1:0"])).await;
    assert!(status == 1 && output.contains("db/state.db holds the data of a kine"), "{output}");
    for args in [&["--version"][..], &["-v"], &["--help"], &["-h"], &["help"], &["h"]] {
        let Ended { status, output } = folder.run(kine(&folder, args)).await;
        assert_eq!(status, 0, "{args:?}: {output}");
        assert!(
            output.contains("kine version ") || output.contains("--listen-address"),
            "{args:?}: {output}"
        );
    }
}
