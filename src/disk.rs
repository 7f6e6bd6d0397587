//! The room on a file system.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Room of a file system, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    /// Bytes that an ordinary user may still write.
    pub free: u64,
    /// All bytes.
    pub total: u64,
}

/// Bytes that puts leave free. Deletes, compactions and ends of leases are messages too, and need room in
/// order to make room: a few of JetStream's blocks and its index, or an eighth of a small disk.
pub(crate) fn headroom(total: u64) -> u64 {
    const MAX_HEADROOM: u64 = 32 << 20;
    MAX_HEADROOM.min(total / 8)
}

/// Whether the text of a write error means that a disk is full, rather than broken.
pub(crate) fn is_full(error: &str) -> bool {
    let error = error.to_lowercase();
    error.contains("no space left") || error.contains("quota exceeded")
}

/// Whether an error means that a disk is full, rather than broken.
pub(crate) fn is_full_error(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The room of the file system that holds `path`; `None` if it is unknown.
pub(crate) fn space(path: &Path) -> Option<Space> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    #[expect(unsafe_code, reason = "statvfs has no counterpart in std")]
    // SAFETY: `path` is a NUL-terminated string and `stat` has room for one struct; both outlive the call.
    let outcome = unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) };
    if outcome != 0 {
        return None;
    }
    #[expect(unsafe_code, reason = "statvfs has no counterpart in std")]
    // SAFETY: statvfs returned 0, so it has filled the struct.
    let stat = unsafe { stat.assume_init() };
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Some(Space { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks) })
}

/// Bytes that the files below a directory occupy; files that go away meanwhile do not count.
pub(crate) fn usage(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => usage(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Gives a file this many bytes that no other file can get.
///
/// # Errors
/// That of the file system.
pub(crate) fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    let bytes = libc::off_t::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    #[expect(unsafe_code, reason = "posix_fallocate has no counterpart in std")]
    // SAFETY: the descriptor is open for as long as `file` lives, and the call touches no memory of ours.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_counts_as_used() {
        let dir = tempfile::tempdir().unwrap();
        let before = usage(dir.path());
        let file = File::create(dir.path().join("reserve")).unwrap();
        reserve(&file, 1 << 20).unwrap();
        assert!(usage(dir.path()) >= before + (1 << 20));
        let space = space(dir.path()).unwrap();
        assert!(space.free < space.total);
        assert_eq!(super::space(Path::new("/no/such/place")), None);
        assert_eq!((headroom(1 << 40), headroom(80)), (32 << 20, 10));
    }
}
