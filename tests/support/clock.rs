//! A wall clock that a test sets.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use tempfile::TempDir;

use crate::preload::library;
use crate::server::Server;

/// Adds the number of seconds in a file to the wall clock. The other clocks go on, as the kernel's do when
/// somebody sets the time.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile int64_t none, *seconds = &none;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int file = open(getenv("CLOCK_FILE"), O_RDONLY);
    void *mapped = mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED) abort();
    seconds = mapped;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real) begin();
    int result = real(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *seconds;
    return result;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec time;
    int result = clock_gettime(CLOCK_REALTIME, &time);
    now->tv_sec = time.tv_sec;
    now->tv_usec = time.tv_nsec / 1000;
    return result;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"#;

/// The wall clock of a jetway.
#[derive(Debug)]
pub struct WallClock {
    seconds: File,
    _dir: TempDir,
}

impl WallClock {
    /// Gives a server a clock of its own from its next start on.
    pub fn of(server: &mut Server) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("seconds");
        std::fs::write(&path, [0; 8]).unwrap();
        server.set_variable("LD_PRELOAD", library(dir.path(), SOURCE).to_str().unwrap());
        server.set_variable("CLOCK_FILE", path.to_str().unwrap());
        Self { seconds: File::options().write(true).open(path).unwrap(), _dir: dir }
    }

    /// Sets it so many seconds ahead of the true time, or behind it.
    pub fn set(&self, seconds: i64) {
        self.seconds.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }
}
