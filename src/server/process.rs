//! How many connections and files the process may have open.

use std::io;

/// Raises the soft limit to the hard one, as every Go program does when it starts: whoever has set up a machine for etcd
/// may have had ten thousand connections with a soft limit of 1024. Answers the limit.
pub(super) fn raise_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    #[expect(unsafe_code, reason = "getrlimit has no counterpart in std")]
    // SAFETY: the pointer is to a value of the right type that outlives the call.
    let outcome = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    #[expect(unsafe_code, reason = "setrlimit has no counterpart in std")]
    // SAFETY: the pointer is to a value of the right type that outlives the call.
    let outcome = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_becomes_the_highest_there_is() {
        let raised = raise_limit().expect("it may be raised up to the hard limit");
        assert_eq!(i64::try_from(raised).ok(), Some(crate::telemetry::descriptor_limit()));
    }
}
