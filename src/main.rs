//! `jetway`: parse, run, exit code.
//!
//! The runtime has one worker less than there are cores, and at least one. nats-server and the applier need a
//! core too, and each call wakes a few tasks: a second worker on two cores wakes in vain, or takes a task
//! away from the thread that has its memory in the cache. Measured were three members on two cores of an AMD
//! EPYC, ext4, with 100 clients (November 2026), in two rounds in turns: `cargo bench --bench wire --
//! --cluster --peers jetway --only put-100,get,mixed`. With one worker instead of two a put costs 104.5 us of
//! CPU instead of 113, a linearizable read 25 instead of 30, and an operation of the mixed load 76 instead of
//! 92. A jetway that is alone takes a tenth to a third less CPU for reads there, and as much for puts. Work
//! that would hold a worker for long goes through `long_work`.

#![warn(clippy::pedantic, clippy::print_stdout, clippy::unwrap_used, unreachable_pub)]

use jetway::cli::{self, Invocation, Program, ServerSettings};
use jetway::telemetry;
use std::process::ExitCode;

/// Writes allocate on one thread what another one frees, and values of all sizes come and go with
/// compactions: glibc's allocator takes a tenth more CPU for a write, and keeps the pages of large values
/// that were freed.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn give_back() {
    #[expect(unsafe_code, reason = "it is a function of C")]
    // SAFETY: it may be called at any time, on any thread.
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
}

fn main() -> ExitCode {
    jetway::memory::give_back_by(give_back);
    let mut args = std::env::args_os();
    let program = Program::of(args.next().as_ref());
    let settings = match cli::read(program, args, std::env::vars_os()) {
        Ok(Invocation::Serve(settings)) => *settings,
        // A reader that has seen enough may close its end.
        Ok(Invocation::Print(output)) => return ExitCode::from(u8::from(output.print().is_err())),
        Err(error) => {
            error.print(program);
            return ExitCode::from(error.status());
        }
    };
    match run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the log may not be set up, or may be filtered")]
            {
                eprintln!("{}: {error}", program.name());
            }
            ExitCode::FAILURE
        }
    }
}

fn run(settings: ServerSettings) -> Result<(), Box<dyn std::error::Error>> {
    telemetry::init(&settings.log)?;
    jetway::server::announce(&settings);
    for notice in &settings.notices {
        if notice.warns {
            tracing::warn!("{}", notice.text);
        } else {
            tracing::info!("{}", notice.text);
        }
    }
    if !settings.without_effect.is_empty() {
        let flags: Vec<_> = settings.without_effect.iter().map(|flag| format!("--{flag}")).collect();
        tracing::info!(flags = flags.join(" "), "these flags have no effect here");
    }
    // A runtime for each core, with its share of the connections, costs a put 17 % more CPU, since the
    // response to a call then wakes another thread.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .enable_all()
        .on_thread_park(jetway::memory::give_back_if_asked)
        .build();
    let is_on_stderr = settings.log.outputs.contains(&telemetry::LogOutput::Stderr);
    let served = runtime?.block_on(jetway::server::serve(settings));
    // A reader of the log alone must learn of the end, too.
    Ok(served.inspect_err(|error| {
        if !is_on_stderr {
            tracing::error!(%error, "jetway ends");
        }
    })?)
}

/// Workers of the runtime. One core is left to nats-server and to the applier's thread.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() - 1).max(1))
}
