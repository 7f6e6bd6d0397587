//! Parity: the same session on two servers, every answer compared, revisions included.
//!
//! A session is a list of operations. Sessions come from a seeded generator or from `scripts/*.txt`, where a
//! session that once showed a difference stays. Two fresh servers run it side by side; the first answer or watch
//! event that differs ends it, and what led there is shrunk to a short script.
//!
//! - `JETWAY_PARITY_SEED`: replay the sessions from this seed (it is printed with each difference);
//! - `JETWAY_PARITY_OPS`: operations of a session;
//! - `JETWAY_PARITY_SECONDS`: how long to go on with new sessions;
//! - `JETWAY_PARITY_PAIR`: the two servers, `etcd,jetway` by default. `etcd,etcd` tests this harness.
//!
//! Not compared, since two etcds differ in it too: the ids of cluster, member and term, the order of equal
//! elements of a sorted range, remaining lease times, how events are batched (but one revision is never split).

#![allow(
    clippy::pedantic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and is read from top to bottom"
)]
#![allow(unreachable_pub, reason = "a test crate has no outside")]

#[path = "../support/mod.rs"]
mod support;

mod answer;
mod generate;
mod pair;
mod session;
mod shrink;
mod side;
mod watchers;

use std::path::Path;
use std::time::{Duration, Instant};

use generate::Generator;
use pair::Pair;
use session::Session;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Runs one session on fresh servers; a difference is shrunk and fails the test.
async fn check(session: Session, origin: &str) {
    let Err(first) = Pair::start().await.run(&session, &session).await else { return };
    eprintln!("{origin}: {first}\nshrinking…");
    let (short, difference) = shrink::shrink(session, first).await;
    panic!("{origin}\n{difference}\nas a script:\n{short}");
}

#[tokio::test]
async fn random_sessions_get_the_same_answers() {
    let ops = setting("JETWAY_PARITY_OPS", 250) as usize;
    let end = Instant::now() + Duration::from_secs(setting("JETWAY_PARITY_SECONDS", 20));
    let mut seed = setting("JETWAY_PARITY_SEED", u64::from(rand::random::<u32>()));
    let first = seed;
    loop {
        let session = Generator::new(seed).session(ops);
        check(session, &format!("JETWAY_PARITY_SEED={seed} JETWAY_PARITY_OPS={ops}")).await;
        seed += 1;
        if Instant::now() > end {
            eprintln!("{} sessions of {ops} operations, from seed {first}", seed - first);
            return;
        }
    }
}

#[tokio::test]
async fn scripts_get_the_same_answers() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/scripts");
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "there are scripts");
    for path in paths {
        let name = path.display().to_string();
        let session = Session::parse(&std::fs::read_to_string(&path).unwrap(), &name);
        if let Err(difference) = Pair::start().await.run(&session, &session).await {
            panic!("{name}: {difference}");
        }
    }
}

/// The harness itself: it must see a difference that is there.
#[tokio::test]
async fn a_planted_difference_is_found() {
    let session = |lines: &str| Session::parse(lines, "planted");
    let plants = [
        // An answer that differs.
        (
            r#"{"put":{"key":"a","value":"1"}}"#,
            r#"{"put":{"key":"a","value":"2"}}"#,
            r#"{"range":{"key":"a"}}"#,
        ),
        // A revision that differs.
        (r#"{"put":{"key":"a"}}"#, r#"{"delete":{"key":"a"}}"#, r#"{"range":{"key":"b"}}"#),
        // An event that differs, in a field that no answer shows before the watch is compared.
        (r#"{"put":{"key":"w"}}"#, r#"{"put":{"key":"w","value":"x"}}"#, r#""settle""#),
    ];
    for (one, other, shows) in plants {
        let watch = r#"{"watch":{"stream":0,"key":"w"}}"#;
        let left = session(&format!("{watch}\n{one}\n{shows}"));
        let right = session(&format!("{watch}\n{other}\n{shows}"));
        Pair::start().await.run(&left, &left).await.expect("no difference to itself");
        let difference = Pair::start().await.run(&left, &right).await.expect_err("the difference is seen");
        assert!(difference.index >= 1, "{difference}");
    }
}

#[test]
fn a_session_survives_its_text_form() {
    for seed in 0..20 {
        let session = Generator::new(seed).session(200);
        assert_eq!(Session::parse(&session.to_string(), "text"), session);
    }
}
