//! The command line: the only reader of flags and environment.
//!
//! `args` is what clap parses, `settings` what the rest of the program gets: checked once, with every default filled in.

mod args;
pub(crate) mod duration;
mod endpoint;
mod settings;

/// For fuzzing: values of flags of any text.
#[cfg(any(fuzzing, test))]
pub(crate) fn fuzz(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(endpoint) = endpoint::parse(&text) {
        assert!(!endpoint.servers.is_empty());
    }
    drop(duration::parse(&text));
}

pub use args::Args;
pub use settings::{
    AutoCompaction, ListenAddress, ListenUrl, Settings, SettingsError, Storage, TlsSettings, TlsVersion,
};
