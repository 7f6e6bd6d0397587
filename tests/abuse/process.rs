//! The server as the kernel sees it, and what this process may open.

use std::fs;
use std::io;

use support::server::{Server, Target};

const MIB: u64 = 1 << 20;

/// Watches the memory of a server from here on.
pub struct Memory {
    pid: u32,
    target: Target,
    before: u64,
}

impl Memory {
    pub fn of(server: &Server) -> Self {
        let pid = server.pid();
        // Five stands for the peak of the resident memory, which starts anew.
        fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
        Self { pid, target: server.target(), before: status(pid, "VmRSS:") }
    }

    /// Resident bytes more than at the start.
    pub fn grown(&self) -> u64 {
        status(self.pid, "VmRSS:").saturating_sub(self.before)
    }

    /// Panics if there were ever more than `mebibytes` more than at the start.
    #[track_caller]
    pub fn stayed_below(&self, what: &str, mebibytes: u64) {
        let peak = status(self.pid, "VmHWM:").saturating_sub(self.before);
        println!("{what}: {} MiB more at the peak, {} MiB now", peak / MIB, self.grown() / MIB);
        if self.target == Target::Jetway {
            assert!(peak < mebibytes * MIB, "{what}: {} MiB more, which is above {mebibytes}", peak / MIB);
        }
    }
}

/// A field of the status in bytes.
fn status(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// Lets this process, and the servers it starts, open as many files as the system allows, and returns how
/// many that is.
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    #[expect(unsafe_code, reason = "the standard library has no resource limits")]
    // SAFETY: the pointer is to a value that lives throughout the call.
    let read = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    assert_eq!(read, 0, "{}", io::Error::last_os_error());
    limit.rlim_cur = limit.rlim_max;
    #[expect(unsafe_code, reason = "as above")]
    // SAFETY: as above.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
    limit.rlim_cur
}
