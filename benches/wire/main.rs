//! The wire benchmark: one client, the same work over each peer in turn, side by side in one run.
//!
//! Every sample gets a freshly started peer in a directory of its own on loopback, so that no sample inherits
//! another's caches, history or backlog. Rounds go A B A B: a machine that slows down or speeds up meanwhile
//! does so for every peer. The load is a closed loop (each client waits for its answer before it asks again)
//! unless a workload has its own rule, so its latencies are not those of a server that is asked faster than
//! it can answer. Client and server share the machine. Answers are checked. A peer that gives a wrong one, or
//! none in time, gets a dash and the reason instead of figures, since the speed of wrong answers is of no
//! interest; if it is jetway, the run fails in the end.
//!
//! With `--cluster` every peer is three servers that are one, its clients are spread over all of them, and
//! what an operation costs is the sum of all processes: three etcds, or three jetways.
//!
//! Tables, JSON and, except for clusters, plots are written anew after each workload, so that a run that is
//! cut short has shown something.

mod failover;
mod kv;
mod load;
mod machine;
mod peer;
mod plot;
mod process;
mod report;
mod sample;
mod snapshot;
mod store;
mod txn;
mod usage;
mod watch;
mod workload;

use clap::Parser;
use load::{Bench, Failure, Timing};
use peer::{Installation, Kind};
use report::Report;
use sample::Sample;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use workload::{Shape, Workload};

/// Runs the same workloads with one etcd client against each peer, prints tables of the outcome and draws it.
#[derive(Parser, Debug)]
#[command(name = "wire")]
struct Options {
    /// Short samples, one round, stores of a tenth of the size: for a look, not for a claim.
    #[arg(long)]
    quick: bool,

    /// Only the workloads of these names, or whose names start with one of them and a dash. The longest run
    /// only so.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,

    /// Three replicas of etcd and of jetway, and the workloads for them.
    #[arg(long)]
    cluster: bool,

    /// Peers in the order they run in a round. A name given twice measures the noise [default:
    /// etcd,jetway,t4,kine-nats,kine-sqlite, with --cluster etcd,jetway].
    #[arg(long, value_delimiter = ',')]
    peers: Vec<Kind>,

    /// Length of a sample after its warm-up, in seconds [default: 5, with --quick 1].
    #[arg(long)]
    seconds: Option<f64>,

    /// How often each peer runs each workload [default: 3, with --quick 1].
    #[arg(long)]
    rounds: Option<usize>,

    /// Size of the stores that are started, as a part of the full one [default: 1, with --quick 0.1].
    #[arg(long)]
    scale: Option<f64>,

    /// Print JSON, with every sample, rather than Markdown.
    #[arg(long)]
    json: bool,

    /// Folder of tables, plots and JSON [default: benches/results for all of a full run, else target/wire].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Folder of the peers' data while they run. Its file system decides how much an fsync costs.
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,

    /// Folder where etcdctl saves snapshots. On the disk of --dir its writes slow down the servers' own
    /// [default: that of --dir].
    #[arg(long, value_name = "DIR")]
    snapshot_dir: Option<PathBuf>,

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

    /// The flag that cargo gives to a benchmark, but not to one that it builds as a test.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.list {
        for workload in Workload::all(options.cluster) {
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
        Ok(report) => {
            if options.json {
                println!("{:#}", report.json());
            } else {
                print!("{}", report.markdown());
            }
            let failed = report.failures_of_jetway();
            if failed.is_empty() {
                return ExitCode::SUCCESS;
            }
            eprintln!("wire: jetway has failed in {failed:?}");
        }
        Err(failure) => eprintln!("wire: {failure}"),
    }
    ExitCode::FAILURE
}

async fn run(options: &Options) -> Result<Report, Failure> {
    if cfg!(debug_assertions) {
        eprintln!(
            "wire: a debug build, the client's and perhaps jetway's: good for trying the benchmark out only"
        );
    }
    let chosen: Vec<&Workload> = Workload::all(options.cluster)
        .filter(|workload| {
            options.only.is_empty() && !workload.is_long
                || options.only.iter().any(|name| workload.is_called(name))
        })
        .collect();
    if chosen.is_empty() {
        return Err(format!("--only {:?}: no such workload; --list names them", options.only).into());
    }
    let jetway_args: Vec<String> = options.jetway_args.split_whitespace().map(str::to_owned).collect();
    let mut installations: Vec<Installation> = Vec::new();
    let members = if options.cluster { MEMBERS } else { 1 };
    for kind in peers(options) {
        let before = installations.iter().filter(|other| other.kind == kind).count();
        installations.push(Installation::find(kind, before, members, &jetway_args)?);
    }
    let (seconds, rounds) = if options.quick { (1.0, 1) } else { (5.0, 3) };
    let timing = Timing {
        warm_up: Duration::from_millis(if options.quick { 300 } else { 1500 }),
        sample: Duration::try_from_secs_f64(options.seconds.unwrap_or(seconds))
            .map_err(|error| format!("--seconds: {error}"))?,
    };
    let rounds = options.rounds.unwrap_or(rounds);
    let scale = options.scale.unwrap_or(if options.quick { 0.1 } else { 1.0 });
    let out = out(options);
    let mut report =
        Report::new(machine::Facts::gather(&options.dir)?, timing, rounds, members, &installations);
    for workload in chosen {
        let (what, rounds) = match workload.shape {
            // Filling a store takes minutes, and what it shows hardly differs from round to round.
            Shape::Store(_) | Shape::Snapshot(_) if (scale - 1.0).abs() > f64::EPSILON => {
                (format!("{}, all of that times {scale}", workload.what), 1)
            }
            Shape::Store(_) => (workload.what.to_owned(), 1),
            Shape::Load(..) | Shape::Failover(..) | Shape::Snapshot(_) => (workload.what.to_owned(), rounds),
        };
        report.begin(workload, what);
        for round in 1..=rounds {
            for (at, installation) in installations.iter().enumerate() {
                if report.has_failed(at) {
                    continue;
                }
                let run = sample(installation, workload, timing, scale, options);
                let shown = tokio::time::timeout(workload.timeout(), run)
                    .await
                    .unwrap_or_else(|_| Err(format!("it took longer than {:?}", workload.timeout()).into()));
                let shown = shown.map_err(|failure| failure.to_string());
                let line =
                    shown.as_ref().map_or_else(|reason| format!("– because {reason}"), Sample::to_string);
                eprintln!("{:<20} {:<13} round {round}: {line}", workload.name, installation.label);
                report.add(at, shown);
            }
        }
        report.write(&out).map_err(|error| format!("--out {}: {error}", out.display()))?;
    }
    eprintln!("wire: the results are in {}", out.display());
    Ok(report)
}

/// Those that were asked for, or else all that take part in such a run.
fn peers(options: &Options) -> Vec<Kind> {
    let all: &[Kind] = match (&options.peers[..], options.cluster) {
        ([], true) => &[Kind::Etcd, Kind::Jetway],
        ([], false) => &[Kind::Etcd, Kind::Jetway, Kind::T4, Kind::KineNats, Kind::KineSqlite],
        (given, _) => given,
    };
    all.to_vec()
}

/// The folder that `benches/NUMBERS.md` shows gets the results of a full run alone.
fn out(options: &Options) -> PathBuf {
    let is_full = !options.quick
        && options.only.is_empty()
        && options.seconds.is_none()
        && options.rounds.is_none()
        && options.scale.is_none();
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
    let default = if is_full { "benches/results" } else { "target/wire" };
    options.out.clone().unwrap_or_else(|| tree.join(default))
}

/// Servers of a cluster.
const MEMBERS: usize = 3;

/// Starts of a full store, of which the mean is reported.
const STARTS: u32 = 3;

async fn sample(
    installation: &Installation,
    workload: &Workload,
    timing: Timing,
    scale: f64,
    options: &Options,
) -> Result<Sample, Failure> {
    let dir = &options.dir;
    let (clients, load) = match workload.shape {
        Shape::Load(clients, load) => (clients, load),
        Shape::Store(contents) => {
            return store::run(installation, dir, contents.scaled(scale), STARTS).await;
        }
        Shape::Snapshot(contents) => {
            let saved_in = options.snapshot_dir.as_ref().unwrap_or(dir);
            return snapshot::run(installation, dir, saved_in, contents.scaled(scale), timing).await;
        }
        Shape::Failover(victim, fault) => return failover::run(installation, dir, victim, fault).await,
    };
    let peer = installation.start(dir).await?;
    let bench = Bench::new(&peer, installation.kind, clients, timing);
    let outcome = load.run(&bench).await;
    let rss = usage::peak_rss(&peer.roots);
    let outcome = peer.with_logs(outcome)?;
    let durability = peer.durability.clone();
    peer.stop().await?;
    Ok(Sample::of_load(outcome, rss?, durability))
}
