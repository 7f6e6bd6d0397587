//! The name by which the program is called.

use std::ffi::OsString;
use std::path::Path;

/// The program whose command line this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Personality {
    /// jetway, with its own defaults.
    Jetway,
    /// etcd, through a link of this name: defaults, version and refusals are etcd's.
    Etcd,
}

impl Personality {
    /// Decides by the name in the first argument.
    pub fn of(program: Option<&OsString>) -> Personality {
        match program.and_then(|program| Path::new(program).file_stem()) {
            Some(name) if name == "etcd" => Personality::Etcd,
            _ => Personality::Jetway,
        }
    }
}
