//! Sessions that are programs: they print what they saw, line by line, and may ask for the server's end and
//! next start.

use std::process::Command;

use tokio::runtime::Handle;

use crate::certificates::Certificates;
use crate::plain::{self, Ids};
use crate::process::{self, Process};
use crate::script::QUICK_PASSWORDS;
use support::server::{Server, Target};

/// Runs the program that `command` makes for an endpoint on both servers and compares what it prints.
///
/// A line that begins with `@` is a request: `@stop`, `@kill` or `@serve`; an empty line on the program's
/// input ends it. The program must end well on both, so whatever it asserts must hold.
pub async fn session(command: fn(&Server) -> Command) {
    let side = async |target| {
        let server = Server::launch(target, &QUICK_PASSWORDS).await;
        let command = command(&server);
        run(server, command).await
    };
    compare(side(Target::Etcd), side(Target::from_env())).await;
}

/// As [`session`], for a program that shows the server a certificate.
pub async fn session_over_tls(command: fn(&Certificates) -> Command) {
    let side = async |target| {
        let (server, certificates) = Certificates::launch(target, &[]).await;
        let output = run(server, command(&certificates)).await;
        output.replace(&certificates.endpoint(), "SECURE")
    };
    compare(side(Target::Etcd), side(Target::from_env())).await;
}

async fn compare(etcd: impl Future<Output = String>, under_test: impl Future<Output = String>) {
    let (expected, output) = tokio::join!(etcd, under_test);
    if std::env::var_os("JETWAY_CLIENTS_PRINT").is_some() {
        println!("{expected}");
    }
    assert!(expected.ends_with("exit Some(0)"), "the session fails on etcd:\n{expected}");
    assert!(output == expected, "etcd and the server under test differ:\n{}", difference(&expected, &output));
}

async fn run(mut server: Server, command: Command) -> String {
    let runtime = Handle::current();
    let job = tokio::task::spawn_blocking(move || {
        let mut process = Process::start(command);
        let mut output = String::new();
        loop {
            let line = process.lines(1);
            match line.trim_end() {
                "@stop" => drop(runtime.block_on(server.stop())),
                "@kill" => server.kill9(),
                "@serve" => runtime.block_on(server.restart()),
                _ => {
                    output += &line;
                    if line.is_empty() || line.ends_with(process::GAVE_UP) {
                        break;
                    }
                    continue;
                }
            }
            process.send("\n");
        }
        let ended = process.end();
        output += &String::from_utf8_lossy(&ended.stderr);
        let output = output.replace(&server.address(), "ADDRESS");
        format!("{}exit {:?}", Ids::default().hide(&plain::hide_fields(&output, &[])), ended.code)
    });
    job.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// The lines from the first to the last that differ, with the step they are in.
fn difference(expected: &str, output: &str) -> String {
    let (left, right): (Vec<_>, Vec<_>) = (expected.lines().collect(), output.lines().collect());
    let same = left.iter().zip(&right).take_while(|(left, right)| left == right).count();
    let same_end =
        left[same..].iter().rev().zip(right[same..].iter().rev()).take_while(|(a, b)| a == b).count();
    let step = left[..same].iter().rfind(|line| line.starts_with('#')).unwrap_or(&"");
    format!(
        "{step}\netcd:\n{}\n\nunder test:\n{}",
        left[same..left.len() - same_end].join("\n"),
        right[same..right.len() - same_end].join("\n")
    )
}
