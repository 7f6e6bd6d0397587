//! A disk that is plugged in.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Disk;

/// A disk, and the folder at which it is mounted.
#[derive(Debug)]
pub struct Mounted {
    pub disk: Disk,
    at: PathBuf,
    session: Option<fuser::BackgroundSession>,
}

impl Drop for Mounted {
    /// If a test fails, the server may still use the disk, which an ordinary unmount would not take away.
    fn drop(&mut self) {
        if self.session.is_some() {
            let unmounted = Command::new("umount").arg("--lazy").arg(&self.at).status();
            println!("unmounted in the end: {unmounted:?}");
        }
    }
}

impl Mounted {
    pub fn mount(disk: Disk, at: &Path) -> Self {
        let mut mounted = Self { disk, at: at.to_owned(), session: None };
        mounted.mount_again();
        mounted
    }

    pub fn mount_again(&mut self) {
        let session = fuser::spawn_mount(self.disk.clone(), &self.at, &fuser::Config::default());
        self.session = Some(session.expect("mount a file system (root and /dev/fuse are needed)"));
    }

    /// Returns when nobody uses the disk any more: the last threads of a dead process take a moment to let go
    /// of it.
    pub fn unmount(&mut self) {
        if let Some(session) = self.session.take() {
            let status = Command::new("umount").arg("--lazy").arg(&self.at).status().expect("run umount");
            assert!(status.success(), "umount: {status}");
            match session.join() {
                // How it ends depends on what the kernel still wanted of it.
                Err(error) if error.kind() != ErrorKind::ConnectionAborted => {
                    panic!("the file system: {error}")
                }
                _ => {}
            }
        }
    }
}
