//! `jetway`: parse, run, exit code.

use jetway::cli::{Args, Settings};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::read(std::env::args_os());
    let settings = match Settings::try_from(args) {
        Ok(settings) => settings,
        Err(error) => return fail(&error),
    };
    jetway::telemetry::init(&settings.log_filter, settings.log_json);
    for flag in &settings.without_effect {
        tracing::info!(flag, "this flag has no effect here");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    match runtime.block_on(jetway::server::serve(settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    #[expect(clippy::print_stderr, reason = "the log may not be set up, or may be filtered")]
    {
        eprintln!("jetway: {error}");
    }
    ExitCode::FAILURE
}
