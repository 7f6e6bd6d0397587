//! The command line of jetway under its own name.

use std::process::Command;

use crate::program::{Ended, WorkingFolder, etcdctl};
use support::server::Port;

/// A command that runs jetway by its own name.
fn jetway(folder: &WorkingFolder, args: &[&str]) -> Command {
    let mut command = folder.command_of(env!("CARGO_BIN_EXE_jetway").into());
    command.args(args);
    command
}

async fn run(args: &[&str]) -> Ended {
    let folder = WorkingFolder::new();
    folder.run(jetway(&folder, args)).await
}

#[tokio::test]
async fn misspelt_flags_and_commands_get_a_suggestion() {
    for (args, words) in [
        (
            &["--listen-client-url=http://127.0.0.1:1"][..],
            &["'--listen-client-url'", "'--listen-client-urls'"][..],
        ),
        (&["-listen-client-url", "http://127.0.0.1:1"], &["'--listen-client-urls'"]),
        (&["serve", "--bukket=a"], &["'--bukket'", "'--bucket'"]),
        (&["serv"], &["'serv'", "'serve'"]),
        (&["completion", "bsh"], &["'bsh'", "'bash'"]),
        (&["help", "versio"], &["'versio'", "'version'"]),
    ] {
        let Ended { status, output } = run(args).await;
        assert_eq!(status, 2, "{args:?}: {output}");
        assert!(words.iter().all(|word| output.contains(word)), "{args:?}: {output}");
    }
}

#[tokio::test]
async fn mistakes_name_the_flag_and_the_value() {
    for (args, words) in [
        (&["--max-txn-ops", "many"][..], &["'many'", "--max-txn-ops", "expected a number"][..]),
        (&["--sync=often"], &["'often'", "--sync", "group or always or lazy"]),
        (&["--auto-tls=yes"], &["'yes'", "--auto-tls", "expected true or false"]),
        (&["--name"], &["--name", "value is required"]),
        (&["---name=a"], &["---name"]),
        (&["--", "a"], &["'a'"]),
        (&["version", "a"], &["'a'"]),
    ] {
        let Ended { status, output } = run(args).await;
        assert_eq!(status, 2, "{args:?}: {output}");
        assert!(words.iter().all(|word| output.contains(word)), "{args:?}: {output}");
        assert!(!output.contains('\u{1b}'), "colours go to a terminal alone: {output}");
    }
}

#[tokio::test]
async fn the_short_help_has_what_is_set_most_with_true_defaults() {
    for args in [&["--help"][..], &["-h"], &["-help"], &["help"], &["serve", "--help"], &["help", "serve"]] {
        let Ended { status, output } = run(args).await;
        assert_eq!(status, 0, "{args:?}: {output}");
        let line = |flag: &str| output.lines().find(|line| line.contains(flag)).unwrap_or_default();
        assert!(line("--log-format").contains("[default: console]"), "{args:?}: {output}");
        assert!(line("--data-dir").contains("[default: <name>.jetway]"), "{args:?}: {output}");
        assert!(
            line("--listen-client-urls").contains("[default: http://127.0.0.1:2379]"),
            "{args:?}: {output}"
        );
        assert!(!output.contains("--wal-dir"), "{args:?}: {output}");
        assert!((20..=43).contains(&output.lines().count()), "{args:?}: {output}");
    }
}

#[tokio::test]
async fn all_flags_are_in_the_long_help_and_on_the_page() {
    let Ended { status, output: help } = run(&["--help=all"]).await;
    assert_eq!(status, 0, "{help}");
    let Ended { status, output: page } = run(&["man"]).await;
    assert_eq!(status, 0, "{page}");
    for flag in ["--wal-dir", "--watch-progress-notify-interval", "--bucket", "--discovery-srv"] {
        assert!(help.contains(flag), "{help}");
        // A manual page writes a dash with a backslash.
        assert!(page.contains(&flag.replace('-', "\\-")), "{page}");
    }
    let interval = help.split("--watch-progress-notify-interval <").nth(1).unwrap_or_default();
    assert!(interval.lines().take(4).any(|line| line.contains("[default: 5s]")), "{help}");
    let Ended { status, output } = run(&["completion", "--help"]).await;
    assert!(status == 0 && output.contains("jetway completion <SHELL>"), "{output}");
    assert!(page.starts_with(".ie") && page.contains(".TH jetway 1  \"jetway 0"), "{page}");
}

/// The shell itself completes, by the script.
#[tokio::test]
async fn bash_completes_flags_and_commands() {
    let folder = WorkingFolder::new();
    let Ended { status, output } = folder.run(jetway(&folder, &["completion", "bash"])).await;
    assert_eq!(status, 0, "{output}");
    std::fs::write(folder.path("completion"), output).unwrap();
    for (line, expected) in
        [("--listen-client-u", "--listen-client-urls"), ("comp", "completion"), ("serve --buck", "--bucket")]
    {
        let script = format!(
            "source ./completion; COMP_WORDS=(jetway {line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _jetway jetway \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD - 1]}}\"; \
             echo \"${{COMPREPLY[@]}}\""
        );
        let mut bash = folder.command_of("bash".into());
        bash.args(["--norc", "-c", &script]);
        let Ended { status, output } = folder.run(bash).await;
        assert!(status == 0 && output.split_whitespace().any(|word| word == expected), "{line}: {output}");
    }
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let Ended { status, output } = run(&["completion", shell]).await;
        assert!(status == 0 && output.contains("listen-client-urls"), "{shell}: {output}");
    }
}

#[tokio::test]
async fn the_version_is_a_flag_and_a_command() {
    let mut answers = Vec::new();
    for args in [&["version"][..], &["--version"], &["-version=true", "--name=a"]] {
        let Ended { status, output } = run(args).await;
        assert_eq!(status, 0, "{args:?}: {output}");
        answers.push(output);
    }
    assert!(answers[0].starts_with("jetway ") && answers.iter().all(|answer| *answer == answers[0]));
}

/// With and without the command; with Go's forms of flags, and with a variable of jetway's that is misspelt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serve_is_the_command_without_a_name() {
    for (at, first) in [&["serve"][..], &[]].into_iter().enumerate() {
        let folder = WorkingFolder::new();
        let port = Port::claim();
        let url = format!("http://127.0.0.1:{}", port.number);
        let mut command = jetway(&folder, first);
        command.args(["-listen-client-urls", &url, "--name=first", "-name", "-dash", "-auto-tls=false"]);
        command.env("JETWAY_BUKET", "a").env("JETWAY_BUCKET", "b").env("ETCD_BUCKET", "c");
        let server = folder.start(command).await;
        let log = server.log();
        let unrecognized =
            |variable: &str| log.contains(&format!("unrecognized environment variable {variable}"));
        assert!(unrecognized("JETWAY_BUKET") && unrecognized("ETCD_BUCKET"), "{at}: {log}");
        // The variables of the tests do not reach the program.
        assert_eq!(log.matches("unrecognized environment variable").count(), 2, "{at}: {log}");
        assert!(etcdctl(&[format!("--endpoints={url}")], &["member", "list"]).contains(", -dash, "));
        assert!(folder.path("-dash.jetway").is_dir());
        assert_eq!(server.stop().await, Some(0));
    }
}

#[tokio::test]
async fn a_health_check_needs_no_other_program() {
    let folder = WorkingFolder::new();
    let port = Port::claim();
    let url = format!("http://127.0.0.1:{}", port.number);
    let ask = async |url: &str| folder.run(jetway(&folder, &["health", url])).await;
    let Ended { status, output } = ask(&url).await;
    assert!(status == 1 && output.contains(&url) && output.contains("refused"), "{output}");
    let server = folder.start(jetway(&folder, &["--data-dir=data", "--listen-client-urls", &url])).await;
    let Ended { status, output } = ask(&url).await;
    assert_eq!((status, &output[..]), (0, "{\"health\":\"true\",\"reason\":\"\"}\n"));
    for (url, words) in
        [("https://127.0.0.1:1", "--listen-metrics-urls"), ("127.0.0.1:1", "expected http://")]
    {
        let Ended { status, output } = ask(url).await;
        assert!(status == 1 && output.contains(url) && output.contains(words), "{output}");
    }
    drop(server);
}
