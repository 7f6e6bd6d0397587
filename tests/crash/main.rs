//! The data that survives when processes die at the worst moment: `kill -9` of jetway, of nats-server and of
//! both under load, and stores that come back older than they were.
//!
//! Each test prints its seed; `JETWAY_CRASH_SEED` runs one again (the moments of the kills still differ a
//! little, since the machine is part of the game). `JETWAY_CRASH_SECONDS` makes the runs under load longer.

mod compaction;
mod damage;
mod flipped;
mod journal;
mod kills;
mod leases;
mod load;
mod powercut;
mod removals;
mod rows;
mod tail;
mod watcher;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long load runs, in each test that has it.
fn load_time() -> Duration {
    let seconds = std::env::var("JETWAY_CRASH_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(20))
}

fn seed() -> u64 {
    let seed = std::env::var("JETWAY_CRASH_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random::<u64>);
    println!("JETWAY_CRASH_SEED={seed}");
    seed
}

/// All files below a folder.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}
