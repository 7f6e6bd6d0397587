//! The clock of leases: time since the machine was started, that of a suspended machine included. The
//! standard library's `Instant` stands still while a machine is suspended, and a lease must not.

use std::ops::Add;
use std::time::Duration;

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Uptime(Duration);

impl Uptime {
    /// This moment.
    pub(crate) fn now() -> Uptime {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        #[expect(unsafe_code, reason = "the standard library does not read this clock")]
        // SAFETY: clock_gettime(2) writes to the one timespec that it is given, which lives until it returns.
        let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
        assert_eq!(result, 0, "each Linux since 2.6.39 has this clock");
        Uptime(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }

    /// Whole seconds from `other` to this one, truncated toward zero.
    pub(crate) fn seconds_after(self, other: Uptime) -> i64 {
        let seconds = self.0.abs_diff(other.0).as_secs() as i64;
        if self < other { -seconds } else { seconds }
    }
}

impl Add<Duration> for Uptime {
    type Output = Uptime;

    fn add(self, duration: Duration) -> Uptime {
        Uptime(self.0.saturating_add(duration))
    }
}
