//! Random command lines: etcd's answer and that of jetway, called as etcd.

use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use crate::program::{Ended, Program, WorkingFolder};

/// Pieces of command lines, to be strung together.
const NAMES: [&str; 27] = [
    "name",
    "data-dir",
    "client-cert-auth",
    "max-txn-ops",
    "listen-client-urls",
    "v",
    "vv",
    "force",
    "cors",
    "feature-gates",
    "initial-cluster-state",
    "no-such",
    "help",
    "version",
    "grpc-keepalive-interval",
    "quota-backend-bytes",
    "config",
    "max-concurrent-streams",
    "v2-deprecation",
    "log-outputs",
    "auto-tls",
    "name ",
    "",
    "=",
    "NAME",
    "help-all",
    "test.outputdir",
];
const VALUES: [&str; 20] = [
    "",
    "a",
    "true",
    "false",
    "-1",
    "0x10",
    "--name",
    "--",
    "-",
    "=",
    "1s",
    "http://127.0.0.1:1",
    "*",
    "new",
    "yes",
    "AllAlpha=true",
    " ",
    "1e3",
    "é",
    "\"q\"",
];

/// Go's grammar itself: dashes, equals signs, values that look like flags, and the first of several mistakes.
#[tokio::test]
async fn random_command_lines_are_refused_alike() {
    let mut random = rand::rng();
    for _ in 0..60 {
        let mut args: Vec<String> = Vec::new();
        for _ in 0..random.random_range(1..4) {
            if random.random_bool(0.1) {
                args.push(
                    (*["garbage", "-", "---x", "--=a", "serve", "help"].choose(&mut random).unwrap()).into(),
                );
                continue;
            }
            let dashes = *["-", "--"].choose(&mut random).unwrap();
            let (name, value) = (NAMES.choose(&mut random).unwrap(), VALUES.choose(&mut random).unwrap());
            match random.random_range(0..3) {
                0 => args.push(format!("{dashes}{name}={value}")),
                1 => args.extend([format!("{dashes}{name}"), (*value).to_owned()]),
                _ => args.push(format!("{dashes}{name}")),
            }
        }
        // The one before may take the first of these for its value. None of these lines starts a server.
        args.extend(["--no-such-1".to_owned(), "--no-such-2".to_owned()]);
        let mut answers = Vec::new();
        for program in [Program::Etcd, Program::Link] {
            let folder = WorkingFolder::new();
            let mut command = folder.command(program);
            command.args(&args);
            let Ended { status, output } = folder.run(command).await;
            answers.push((status, output));
        }
        let [etcd, link] = answers.try_into().expect("two answers");
        assert_eq!(etcd.0, link.0, "{args:?}: {} and {}", etcd.1, link.1);
        match etcd.0 {
            0 => {}
            1 => assert!(link.1.contains("is not a valid flag"), "{args:?}: {} and {}", etcd.1, link.1),
            _ => {
                let first = etcd.1.lines().next().unwrap();
                assert!(link.1.starts_with(first), "{args:?}: {} and {}", etcd.1, link.1);
            }
        }
    }
}
