//! libFuzzer on one of jetway's fuzz targets, the one named by `JETWAY_FUZZ_TARGET`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("JETWAY_FUZZ_TARGET").unwrap_or_default();
    let names: Vec<_> = jetway::fuzzing::TARGETS.iter().map(|(name, _)| *name).collect();
    let target = jetway::fuzzing::TARGETS.iter().find(|(target, _)| *target == name);
    target.unwrap_or_else(|| panic!("JETWAY_FUZZ_TARGET={name:?}: expected one of {names:?}")).1
});

fuzz_target!(|data: &[u8]| TARGET(data));
