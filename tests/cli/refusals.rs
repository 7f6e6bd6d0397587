//! Wrong command lines: the same exit status as etcd's, and the words that name the mistake.

use crate::program::{Ended, Program, WorkingFolder};

/// Flags with which a start that opens ports disturbs no other server.
const APART: [&str; 6] = [
    "--listen-peer-urls=http://127.0.0.1:0",
    "--listen-client-urls=http://127.0.0.1:0",
    "--advertise-client-urls=http://127.0.0.1:1",
    "--name=default",
    "--log-level=info",
    "--unsafe-no-fsync",
];

/// Runs both and compares.
async fn both_refuse(args: &[&str], variables: &[(&str, &str)], file: Option<&str>, words: &str) {
    let mut statuses = Vec::new();
    for program in [Program::Etcd, Program::Link] {
        let folder = WorkingFolder::new();
        let mut command = folder.command(program);
        command.args(args).envs(variables.iter().copied());
        if let Some(text) = file {
            std::fs::write(folder.path("etcd.yaml"), text).unwrap();
            command.args(["--config-file", "etcd.yaml"]);
        }
        let Ended { status, output } = folder.run(command).await;
        assert!(
            output.contains(words),
            "{program:?} {args:?} {variables:?} {file:?}: no {words:?} in\n{output}"
        );
        assert!(!output.contains("panicked"), "{output}");
        statuses.push(status);
    }
    assert_eq!(statuses[0], statuses[1], "etcd and jetway on {args:?} {variables:?} {file:?}");
    assert_ne!(statuses[0], 0, "{args:?} {variables:?} {file:?}");
}

#[tokio::test]
async fn malformed_command_lines_are_refused_in_etcds_words() {
    for (args, words) in [
        (&["--no-such-flag"][..], "flag provided but not defined: -no-such-flag"),
        (
            &["--experimental-initial-corrupt-check=true"],
            "flag provided but not defined: -experimental-initial",
        ),
        (&["--proxy=off"], "flag provided but not defined: -proxy"),
        (&["--discovery=http://a"], "flag provided but not defined: -discovery"),
        (&["--name"], "flag needs an argument: -name"),
        (&["---name=a"], "bad flag syntax: ---name=a"),
        (&["--=a"], "bad flag syntax: --=a"),
        (&["garbage"], "\"garbage\" is not a valid flag"),
        (&["--name", "a", "--", "b"], "\"b\" is not a valid flag"),
        (&["-"], "\"-\" is not a valid flag"),
        (&["--version", "a"], "\"a\" is not a valid flag"),
        (&["--client-cert-auth", "true"], "\"true\" is not a valid flag"),
        (&["-max-txn-ops=-1"], "invalid value \"-1\" for flag -max-txn-ops: parse error"),
        (&["--max-txn-ops=99999999999999999999"], "for flag -max-txn-ops: value out of range"),
        (&["--max-concurrent-streams=4294967296"], "value out of range"),
        (&["--quota-backend-bytes", "1G"], "invalid value \"1G\" for flag -quota-backend-bytes: parse error"),
        (&["--grpc-keepalive-interval", "5"], "for flag -grpc-keepalive-interval: parse error"),
        (
            &["--listen-client-urls", "localhost:1"],
            "URL scheme must be http, https, unix, or unixs: localhost:1",
        ),
        (&["--listen-client-urls", "127.0.0.1:1"], "first path segment in URL cannot contain colon"),
        (&["--listen-client-urls", "http://127.0.0.1"], "URL address does not have the form \"host:port\""),
        (
            &["--listen-client-urls", "http://127.0.0.1:1/"],
            "URL must not contain a path: http://127.0.0.1:1/",
        ),
        (&["--listen-client-urls", "http://127.0.0.1:a"], "invalid port \":a\" after host"),
        (
            &["--listen-client-urls", "http://127.0.0.1:1,"],
            "URL scheme must be http, https, unix, or unixs: ",
        ),
        (&["--cors", "a"], "invalid value \"a\" for flag -cors"),
        (&["--initial-cluster-state", "old"], "invalid value \"old\" for flag -initial-cluster-state"),
        (&["--v2-deprecation", "a"], "invalid value \"a\" for flag -v2-deprecation: invalid value \"a\""),
        (
            &["--v2-deprecation", "not-yet"],
            "invalid value \"not-yet\" for flag -v2-deprecation: invalid value \"not-yet\"",
        ),
        (&["--feature-gates", "Colours=true"], "unrecognized feature gate: Colours"),
        (&["--feature-gates", "AllAlpha"], "missing bool value for AllAlpha"),
    ] {
        both_refuse(args, &[], None, words).await;
    }
}

#[tokio::test]
async fn contradictory_flags_are_refused_in_etcds_words() {
    for (args, words) in [
        (&["--listen-client-urls=http://127.0.0.1:1"][..], "--advertise-client-urls is required when"),
        (
            &["--listen-client-urls=http://a.test:1", "--advertise-client-urls=http://a.test:1"],
            "expected IP in URL for binding (http://a.test:1)",
        ),
        (&["--listen-metrics-urls=http://:1"], "expected IP in URL for binding (http://:1)"),
        (&["--listen-peer-urls=http://a.test:1"], "expected IP in URL for binding (http://a.test:1)"),
        (&["--advertise-client-urls=http://:1"], "unexpected empty host (http://:1)"),
        (&["--initial-advertise-peer-urls=http://:1"], "--initial-advertise-peer-urls \"http://:1\" must be"),
        (
            &["--discovery-fallback=proxy"],
            "v2 proxy is deprecated, and --discovery-fallback can't be configured",
        ),
        (&["--discovery-srv=a.test", "--initial-cluster=default=http://localhost:2380"], "Choose one of"),
        (
            &["--name=a", "--initial-cluster=a=http://127.0.0.1:1,b=http://127.0.0.1:2"],
            "--initial-cluster has a=http://127.0.0.1:1 but missing from --initial-advertise-peer-urls=http://localhost:2380",
        ),
        (
            &[
                "--name=a",
                "--initial-advertise-peer-urls=http://127.0.0.1:1",
                "--initial-cluster=a=http://127.0.0.1:1,b=http://127.0.0.1:1",
            ],
            "initial cluster a=http://127.0.0.1:1,b=http://127.0.0.1:1 has duplicate url",
        ),
        (&["--discovery-token=a"], "both --discovery-token and --discovery-endpoints must be set"),
        (&["--heartbeat-interval=0"], "--heartbeat-interval must be >0"),
        (&["--election-timeout=0"], "--election-timeout must be >0"),
        (&["--heartbeat-interval=300"], "--election-timeout[1000ms] should be at least as 5 times as"),
        (&["--election-timeout=60000"], "--election-timeout[60000ms] is too long"),
        (&["--auto-compaction-mode=weekly"], "unknown auto-compaction-mode \"weekly\""),
        (&["--auto-compaction-mode="], "undefined auto-compaction-mode"),
        (&["--compact-hash-check-time=0s"], "--compact-hash-check-time must be >0"),
        (&["--logger=capnslog"], "--logger=capnslog is removed in v3.5"),
        (&["--logger=a"], "unknown logger option \"a\""),
        (&["--log-format=xml"], "unknown log format: xml"),
        (&["--log-outputs=default,stdout"], "multi logoutput for \"default\" is not supported yet"),
        (&["--log-outputs=/no/such/directory/log"], "/no/such/directory/log"),
        (&["--enable-log-rotation"], "--log-outputs requires a single file path"),
        (
            &["--enable-log-rotation", "--log-outputs=log", "--log-rotation-config-json={"],
            "improperly formatted log rotation config",
        ),
        (&["--tls-min-version=SSL3"], "unexpected TLS version \"SSL3\" (must be one of: TLS1.2, TLS1.3)"),
        (
            &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            &["--tls-min-version=TLS1.3", "--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA"],
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        (
            &["--feature-gates=LeaseCheckpointPersist=true"],
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
        ),
        (&["--config-file=/no/such/file"], "/no/such/file"),
        (
            &["--enable-distributed-tracing", "--distributed-tracing-sampling-rate=-1"],
            "tracing configurition",
        ),
    ] {
        both_refuse(args, &[], None, words).await;
    }
}

#[tokio::test]
async fn failures_at_the_start_are_reported_in_etcds_words() {
    for (args, words) in [
        (
            &["--listen-client-urls=https://127.0.0.1:0"][..],
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:0",
        ),
        (
            &["--listen-metrics-urls=https://127.0.0.1:0", "--cert-file=", "--key-file="],
            "TLS key/cert (--cert-file, --key-file) must be provided for",
        ),
        (
            &["--listen-client-urls=http://127.0.0.1:9", "--listen-client-http-urls=http://127.0.0.1:9"],
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url",
        ),
        (
            &["--auto-compaction-retention=a"],
            "error parsing CompactionRetention: time: invalid duration \"a\"",
        ),
        (&["--auth-token=a"], "auth: invalid auth options"),
        (
            &["--name=a", "--initial-cluster=b=http://127.0.0.1:1"],
            "couldn't find local name \"a\" in the initial cluster configuration",
        ),
        (&["--initial-cluster=default=a"], "error setting up initial cluster: "),
        (
            &[
                "--name=a",
                "--initial-advertise-peer-urls=http://127.0.0.1:1",
                "--initial-cluster=a=http://127.0.0.1:1,a=http://127.0.0.2:1",
            ],
            "--initial-cluster has a=http://127.0.0.2:1 but missing from --initial-advertise-peer-urls=http://127.0.0.1:1",
        ),
        (
            &["--initial-cluster=default=http://127.0.0.2:1"],
            "--initial-cluster has default=http://127.0.0.2:1 but missing from --initial-advertise-peer-urls=http://localhost:2380",
        ),
        (
            &[
                "--initial-cluster-state=existing",
                "--initial-advertise-peer-urls=http://127.0.0.1:1",
                "--initial-cluster=default=http://127.0.0.1:1",
            ],
            "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs",
        ),
    ] {
        let args: Vec<_> = APART.iter().chain(args).copied().collect();
        both_refuse(&args, &[], None, words).await;
    }
}

#[tokio::test]
async fn invalid_variables_are_refused_in_etcds_words() {
    let shadowed = "conflicting environment variable is shadowed by corresponding command-line flag";
    for (args, variable, words) in [
        (&["--name=a"][..], ("ETCD_NAME", "b"), shadowed),
        (&["--name=a"], ("ETCD_NAME", ""), shadowed),
        (&[], ("ETCD_MAX_TXN_OPS", "a"), "invalid value \"a\" for ETCD_MAX_TXN_OPS: parse error"),
        (
            &[],
            ("ETCD_CLIENT_CERT_AUTH", "yes"),
            "invalid value \"yes\" for ETCD_CLIENT_CERT_AUTH: parse error",
        ),
        (&[], ("ETCD_LISTEN_CLIENT_URLS", "http://127.0.0.1:1"), "--advertise-client-urls is required when"),
        (&[], ("ETCD_CONFIG_FILE", "/no/such/file"), "/no/such/file"),
    ] {
        both_refuse(args, &[variable], None, words).await;
    }
}

#[tokio::test]
async fn invalid_config_files_are_refused_in_etcds_words() {
    for (file, words) in [
        ("max-txn-ops: many", "cannot unmarshal string into"),
        ("max-txn-ops: \"5\"", "cannot unmarshal string into"),
        ("max-txn-ops: -1", "cannot unmarshal number -1 into"),
        ("max-txn-ops: 1.5", "cannot unmarshal number 1.5 into"),
        ("name: 5", "cannot unmarshal number into"),
        ("name: true", "cannot unmarshal bool into"),
        ("log-outputs: stdout", "cannot unmarshal string into"),
        ("watch-progress-notify-interval: 5s", "cannot unmarshal string into"),
        ("auto-compaction-retention: 5", "cannot unmarshal number into"),
        ("enable-pprof: \"true\"", "cannot unmarshal string into"),
        ("client-transport-security: 5", "cannot unmarshal number into"),
        ("client-transport-security:\n  cert-file: 5", "client-transport-security.cert-file of type string"),
        ("feature-gates: {a: true}", "cannot unmarshal object into"),
        ("a b c", "cannot unmarshal string into"),
        ("[1]", "cannot unmarshal array into"),
        ("name: [", "error converting YAML to JSON"),
        ("listen-client-urls: foo", "URL scheme must be http, https, unix, or unixs: foo"),
        ("feature-gates: a=true", "unrecognized feature gate: a"),
        ("auto-compaction-mode: weekly", "unknown auto-compaction-mode \"weekly\""),
        ("heartbeat-interval: 0", "--heartbeat-interval must be >0"),
        ("tls-min-version: SSL3", "unexpected TLS version \"SSL3\""),
    ] {
        both_refuse(&[], &[], Some(file), words).await;
    }
    // A mistake on the command line is one with a file too.
    both_refuse(&["--max-txn-ops=a"], &[], Some("name: a"), "invalid value \"a\" for flag -max-txn-ops")
        .await;
}

/// etcd has these features and jetway has not. It refuses them, so that no setting is ignored silently.
#[tokio::test]
async fn unsupported_features_are_refused_by_jetway_alone() {
    for (args, words) in [
        (&["gateway", "start"][..], &["gateway is not part of jetway"][..]),
        (&["grpc-proxy", "start"], &["grpc-proxy is not part of jetway"]),
        (&["--initial-cluster-state=existing"], &["holds no data", "default.etcd", "--endpoint"]),
        (
            &["--discovery-token=t", "--discovery-endpoints=http://a:1"],
            &["--discovery-endpoints", "--endpoint"],
        ),
        (&["--log-level=loud"], &["unrecognized level: \"loud\"", "--log-level"]),
    ] {
        let folder = WorkingFolder::new();
        let mut command = folder.command(Program::Link);
        command.args(args);
        let Ended { status, output } = folder.run(command).await;
        assert_eq!(status, 1, "{args:?}: {output}");
        assert!(words.iter().all(|word| output.contains(word)), "{args:?}: {output}");
    }
    let folder = WorkingFolder::new();
    std::fs::create_dir_all(folder.path("data/member/wal")).unwrap();
    let mut command = folder.command(Program::Link);
    command.args(["--data-dir", "data"]);
    let Ended { status, output } = folder.run(command).await;
    assert_eq!(status, 1, "{output}");
    assert!(output.contains("--data-dir data: holds the data of an etcd"), "{output}");
}

#[tokio::test]
async fn help_and_version_succeed() {
    for args in [&["--help"][..], &["-h"], &["-help"], &["--version"], &["-version", "--name=a"]] {
        let mut output = Vec::new();
        for program in [Program::Etcd, Program::Link] {
            let folder = WorkingFolder::new();
            let mut command = folder.command(program);
            command.args(args);
            let ended = folder.run(command).await;
            assert_eq!(ended.status, 0, "{program:?} {args:?}: {}", ended.output);
            output.push(ended.output);
        }
        let keys = |text: &str| -> Vec<String> {
            text.lines().filter_map(|line| Some(line.split_once(": ")?.0.to_owned())).collect()
        };
        if args[0].contains("version") {
            assert_eq!(keys(&output[0]), keys(&output[1]));
            assert_eq!(output[0].lines().next(), output[1].lines().next());
            assert_eq!(output[0].lines().last(), output[1].lines().last());
        } else {
            assert!(output[1].contains("--listen-client-urls"), "{}", output[1]);
        }
    }
}
