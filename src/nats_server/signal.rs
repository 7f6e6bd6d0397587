//! Signals to processes.

use std::io;

/// Sends a signal to one process.
pub(super) fn signal(pid: u32, signal: libc::c_int) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).ok().filter(|&pid| pid > 0).ok_or(io::ErrorKind::InvalidInput)?;
    #[expect(unsafe_code, reason = "kill has no counterpart in std")]
    // SAFETY: kill touches no memory; `pid` is positive, so that it means one process.
    let outcome = unsafe { libc::kill(pid, signal) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
