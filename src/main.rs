//! `jetway`: parse, run, exit code.

#![warn(clippy::pedantic, clippy::print_stdout, clippy::unwrap_used, unreachable_pub)]

use jetway::cli::{self, Invocation, Personality};
use jetway::telemetry;
use std::ffi::OsString;
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
    let personality = Personality::of(args.next().as_ref());
    match run(personality, args) {
        Ok(()) => ExitCode::SUCCESS,
        Err((status, error)) => {
            fail(personality, status, &*error);
            ExitCode::from(status)
        }
    }
}

type Failure = (u8, Box<dyn std::error::Error>);

fn run(personality: Personality, args: impl Iterator<Item = OsString>) -> Result<(), Failure> {
    let settings = match cli::read(personality, args, std::env::vars_os()) {
        Ok(Invocation::Serve(settings)) => *settings,
        Ok(Invocation::Print(text)) => {
            #[expect(clippy::print_stdout, reason = "it was asked for")]
            {
                print!("{text}");
            }
            return Ok(());
        }
        Err(error) => return Err((error.status(), error.into())),
    };
    telemetry::init(&settings.log).map_err(|error| (1, error.into()))?;
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
    // response to a call then wakes another thread. The applier has a thread of its own.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| (1, error.into()))?;
    let is_on_stderr = settings.log.outputs.contains(&telemetry::LogOutput::Stderr);
    let served = runtime.block_on(jetway::server::serve(settings));
    served.map_err(|error| {
        // A reader of the log alone must learn of the end, too.
        if !is_on_stderr {
            tracing::error!(%error, "jetway ends");
        }
        (1, error.into())
    })
}

#[expect(clippy::print_stderr, reason = "the log may not be set up, or may be filtered")]
fn fail(personality: Personality, status: u8, error: &dyn std::error::Error) {
    let name = match personality {
        Personality::Jetway => "jetway",
        Personality::Etcd => "etcd",
    };
    // As in etcd, the text of a mistake in the command line itself has no prefix.
    if status == 2 {
        eprintln!("{error}\n{name} --help lists every flag.");
    } else {
        eprintln!("{name}: {error}");
    }
}
