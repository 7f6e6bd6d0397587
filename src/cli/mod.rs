//! The command line: the only reader of flags and environment.
//!
//! `args` is what clap parses, `settings` what the rest of the program gets: checked once, with every default filled in.

mod args;
pub(crate) mod duration;
mod endpoint;
mod settings;

pub use args::Args;
pub use settings::{
    AutoCompaction, ListenAddress, ListenUrl, Settings, SettingsError, Storage, TlsSettings, TlsVersion,
};
