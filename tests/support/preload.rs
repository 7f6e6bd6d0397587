//! Libraries that are loaded before the C library into a program that is linked with it, as jetway is.
//! nats-server is not.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds a library of C source, for the variable `LD_PRELOAD`.
pub fn library(dir: &Path, source: &str) -> PathBuf {
    let (file, library) = (dir.join("preload.c"), dir.join("preload.so"));
    std::fs::write(&file, source).unwrap();
    let mut cc = Command::new("cc");
    let status = cc.args(["-shared", "-fPIC", "-o"]).args([&library, &file]).arg("-ldl").status();
    assert!(status.expect("cc").success(), "cc cannot build {}", file.display());
    library
}
