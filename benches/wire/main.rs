//! The wire benchmark: one client, the same work over each peer in turn, side by side in one run.
//!
//! Every sample gets a freshly started peer in a directory of its own on loopback, so that no sample inherits another's
//! caches, history or backlog. Rounds go A B A B: a machine that slows down or speeds up meanwhile does so for every peer.
//! The load is a closed loop (each client waits for its answer before it asks again) unless a workload says otherwise, so
//! its latencies say nothing about a server that is asked faster than it can answer. Client and server share the machine.
//! Answers are checked; a wrong one ends the run, since the speed of wrong answers is of no interest.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the result goes to stdout, the progress to stderr"
)]
#![expect(clippy::cast_precision_loss, reason = "figures of three digits")]

mod kv;
mod load;
mod machine;
mod peer;
mod report;
mod usage;
mod watch;
mod workload;

use clap::Parser;
use load::{Bench, Failure, Timing};
use peer::{Installation, Kind};
use report::{Report, Sample};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use workload::Workload;

/// Runs the same workloads with one etcd client against each peer and prints a table of the outcome.
#[derive(Parser, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[command(name = "wire")]
struct Options {
    /// Short samples and one round: for a look, not for a claim.
    #[arg(long)]
    quick: bool,

    /// Only the workloads of these names, or whose names start with one of them and a dash.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,

    /// Peers in the order they run in a round. A name given twice measures the noise.
    #[arg(long, value_delimiter = ',', default_value = "etcd,jetway")]
    peers: Vec<Kind>,

    /// Length of a sample after its warm-up, in seconds [default: 5, with --quick 2].
    #[arg(long)]
    seconds: Option<f64>,

    /// How often each peer runs each workload [default: 2, with --quick 1].
    #[arg(long)]
    rounds: Option<usize>,

    /// JSON, with every sample, rather than Markdown.
    #[arg(long)]
    json: bool,

    /// Where the peers keep their data while they run; its file system decides what an fsync costs.
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,

    /// More arguments for jetway, separated by spaces.
    #[arg(
        long,
        env = "JETWAY_BENCH_JETWAY_ARGS",
        value_name = "ARGS",
        default_value = "",
        allow_hyphen_values = true
    )]
    jetway_args: String,

    /// The names of the workloads, and nothing else.
    #[arg(long)]
    list: bool,

    /// What cargo says to a benchmark, and does not say when it builds one as a test.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.list {
        for workload in Workload::ALL {
            println!("{:<20} {}", workload.name, workload.what);
        }
        return ExitCode::SUCCESS;
    }
    if !options.bench {
        eprintln!("wire: minutes of load; run it by `cargo bench --bench wire`, or give it --bench");
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime.map_err(Failure::from).and_then(|runtime| runtime.block_on(run(&options))) {
        Ok(report) if options.json => println!("{:#}", report.json()),
        Ok(report) => print!("{}", report.markdown()),
        Err(failure) => {
            eprintln!("wire: {failure}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

async fn run(options: &Options) -> Result<Report, Failure> {
    if cfg!(debug_assertions) {
        eprintln!(
            "wire: a debug build, the client's and perhaps jetway's: good for trying the benchmark out only"
        );
    }
    let chosen: Vec<&Workload> = Workload::ALL
        .iter()
        .filter(|workload| {
            options.only.is_empty() || options.only.iter().any(|name| workload.is_called(name))
        })
        .collect();
    if chosen.is_empty() {
        return Err(format!("--only {:?}: no such workload; --list names them", options.only).into());
    }
    let jetway_args: Vec<String> = options.jetway_args.split_whitespace().map(str::to_owned).collect();
    let mut installations: Vec<Installation> = Vec::new();
    for kind in &options.peers {
        let before = installations.iter().filter(|other| other.kind == *kind).count();
        installations.push(Installation::find(*kind, before, &jetway_args)?);
    }
    let (seconds, rounds) = if options.quick { (2.0, 1) } else { (5.0, 2) };
    let timing = Timing {
        warm_up: Duration::from_millis(if options.quick { 500 } else { 1500 }),
        sample: Duration::try_from_secs_f64(options.seconds.unwrap_or(seconds))
            .map_err(|error| format!("--seconds: {error}"))?,
    };
    let rounds = options.rounds.unwrap_or(rounds);
    let mut report = Report::new(machine::Facts::gather(&options.dir)?, timing, rounds, &installations);
    for workload in chosen {
        for round in 1..=rounds {
            for (at, installation) in installations.iter().enumerate() {
                let name = &installation.label;
                let sample = sample(installation, workload, timing, options, &mut report, at)
                    .await
                    .map_err(|failure| format!("{} on {name}, round {round}: {failure}", workload.name))?;
                eprintln!("{:<20} {name:<10} round {round}: {sample}", workload.name);
                report.add(workload, at, sample);
            }
        }
    }
    Ok(report)
}

async fn sample(
    installation: &Installation,
    workload: &Workload,
    timing: Timing,
    options: &Options,
    report: &mut Report,
    at: usize,
) -> Result<Sample, Failure> {
    let peer = installation.start(&options.dir).await?;
    report.describe(at, &peer);
    let bench =
        Bench { endpoint: peer.endpoint.clone(), process: peer.pid, clients: workload.clients, timing };
    let outcome = workload.run(&bench).await;
    let rss = usage::peak_rss(peer.pid);
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(failure) => return Err(format!("{failure}{}", peer.last_words()).into()),
    };
    peer.stop().await?;
    Ok(Sample::new(outcome, rss?))
}
