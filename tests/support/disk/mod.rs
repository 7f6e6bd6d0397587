//! A file system in memory that remembers two states of everything: what programs see, and what would be
//! there after a power cut.
//!
//! The second moves only with a sync, and no further than its caller asked: `fsync` of a file makes that
//! file's content durable and not its name, `fsync` of a folder its names and not what they point to. A cut
//! stops everything with EIO and throws the first state away. If a test asks for it, some of the pages that
//! were written and not synced survive it all the same, as they may on a real disk that the kernel writes to
//! when it likes.
//!
//! A journaled disk keeps all names with each sync, in one journal, as ext4 and XFS do.
//!
//! Its syncs can be made slow.

mod fuse;
mod mounted;

pub use mounted::Mounted;

use fuser::{Errno, FileAttr, FileType, INodeNo};
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

const PAGE: usize = 4096;
const ROOT: u64 = 1;

#[derive(Clone, Debug)]
enum Node {
    Folder { seen: BTreeMap<OsString, u64>, durable: BTreeMap<OsString, u64> },
    File { seen: Vec<u8>, durable: Vec<u8>, dirty: BTreeSet<usize> },
}

#[derive(Clone, Debug)]
struct Inode {
    node: Node,
    mode: u16,
    changed: SystemTime,
}

#[derive(Debug)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    next: u64,
    is_cut: bool,
    is_journaled: bool,
    syncs: u64,
    delay: Duration,
}

/// The disk; clones share it. It outlives its mounts.
#[derive(Clone, Debug)]
pub struct Disk {
    state: Arc<Mutex<State>>,
}

impl Default for Disk {
    fn default() -> Disk {
        let root = Inode {
            node: Node::Folder { seen: BTreeMap::new(), durable: BTreeMap::new() },
            mode: 0o755,
            changed: SystemTime::now(),
        };
        let inodes = BTreeMap::from([(ROOT, root)]);
        let (next, delay) = (ROOT + 1, Duration::ZERO);
        let state = State { inodes, next, is_cut: false, is_journaled: false, syncs: 0, delay };
        Disk { state: Arc::new(Mutex::new(state)) }
    }
}

impl Disk {
    /// A disk with one journal for all names.
    pub fn journaled() -> Disk {
        let disk = Disk::default();
        disk.lock().is_journaled = true;
        disk
    }

    fn sync(&self, number: u64) -> Result<(), Errno> {
        let delay = self.lock().delay;
        std::thread::sleep(delay);
        self.lock().sync(number)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// From here on nothing is read or written.
    pub fn cut(&self) {
        self.lock().is_cut = true;
    }

    /// From here on each sync takes so long, and all else waits for it.
    pub fn slow_down(&self, delay: Duration) {
        self.lock().delay = delay;
    }

    /// How often something was synced so far.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// The power is back: there is what was durable, and of each page written since with probability
    /// `survives` that too.
    pub fn restore(&self, survives: f64, random: &mut impl Rng) {
        let mut state = self.lock();
        state.is_cut = false;
        for inode in state.inodes.values_mut() {
            match &mut inode.node {
                Node::Folder { seen, durable } => seen.clone_from(durable),
                Node::File { seen, durable, dirty } => {
                    for page in std::mem::take(dirty) {
                        let from = (page * PAGE).min(seen.len());
                        let to = (from + PAGE).min(seen.len());
                        if from < to && random.random_bool(survives) {
                            durable.resize(durable.len().max(to), 0);
                            durable[from..to].copy_from_slice(&seen[from..to]);
                        }
                    }
                    seen.clone_from(durable);
                }
            }
        }
        let mut reachable = BTreeSet::new();
        let mut waiting = vec![ROOT];
        while let Some(number) = waiting.pop() {
            if reachable.insert(number)
                && let Some(Inode { node: Node::Folder { seen, .. }, .. }) = state.inodes.get(&number)
            {
                waiting.extend(seen.values());
            }
        }
        state.inodes.retain(|number, _| reachable.contains(number));
    }
}

impl State {
    fn attr(&self, number: u64) -> Option<FileAttr> {
        let inode = self.inodes.get(&number)?;
        let (kind, size) = match &inode.node {
            Node::Folder { .. } => (FileType::Directory, 0),
            Node::File { seen, .. } => (FileType::RegularFile, seen.len() as u64),
        };
        Some(FileAttr {
            ino: INodeNo(number),
            size,
            blocks: size.div_ceil(512),
            atime: inode.changed,
            mtime: inode.changed,
            ctime: inode.changed,
            crtime: inode.changed,
            kind,
            perm: inode.mode,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: PAGE as u32,
        })
    }

    fn names(&mut self, number: u64) -> Result<&mut BTreeMap<OsString, u64>, Errno> {
        let inode = self.inodes.get_mut(&number).ok_or(Errno::ENOENT)?;
        inode.changed = SystemTime::now();
        match &mut inode.node {
            Node::Folder { seen, .. } => Ok(seen),
            Node::File { .. } => Err(Errno::ENOTDIR),
        }
    }

    fn add(&mut self, parent: u64, name: &OsStr, mode: u32, node: Node) -> Result<FileAttr, Errno> {
        if self.is_cut {
            return Err(Errno::EIO);
        }
        let number = self.next;
        if self.names(parent)?.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        self.names(parent)?.insert(name.to_owned(), number);
        self.next += 1;
        self.inodes.insert(number, Inode { node, mode: (mode & 0o777) as u16, changed: SystemTime::now() });
        self.attr(number).ok_or(Errno::ENOENT)
    }

    fn remove(&mut self, parent: u64, name: &OsStr) -> Result<(), Errno> {
        if self.is_cut {
            return Err(Errno::EIO);
        }
        // The inode stays: it may be open, and it may be what a cut brings back.
        self.names(parent)?.remove(name).map(drop).ok_or(Errno::ENOENT)
    }

    /// nats-server removes folders that may be empty, and relies on the refusal.
    fn remove_folder(&mut self, parent: u64, name: &OsStr) -> Result<(), Errno> {
        let number = *self.names(parent)?.get(name).ok_or(Errno::ENOENT)?;
        if self.names(number)?.is_empty() { self.remove(parent, name) } else { Err(Errno::ENOTEMPTY) }
    }

    fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr)) -> Result<(), Errno> {
        if self.is_cut {
            return Err(Errno::EIO);
        }
        let number = self.names(from.0)?.remove(from.1).ok_or(Errno::ENOENT)?;
        self.names(to.0)?.insert(to.1.to_owned(), number);
        Ok(())
    }

    fn write(&mut self, number: u64, offset: usize, data: &[u8]) -> Result<(), Errno> {
        if self.is_cut {
            return Err(Errno::EIO);
        }
        let inode = self.inodes.get_mut(&number).ok_or(Errno::ENOENT)?;
        inode.changed = SystemTime::now();
        let Node::File { seen, dirty, .. } = &mut inode.node else { return Err(Errno::EISDIR) };
        let end = offset + data.len();
        if seen.len() < end {
            dirty.extend(seen.len() / PAGE..end.div_ceil(PAGE));
            seen.resize(end, 0);
        }
        seen[offset..end].copy_from_slice(data);
        dirty.extend(offset / PAGE..end.div_ceil(PAGE));
        Ok(())
    }

    fn truncate(&mut self, number: u64, size: usize) -> Result<(), Errno> {
        if self.is_cut {
            return Err(Errno::EIO);
        }
        let inode = self.inodes.get_mut(&number).ok_or(Errno::ENOENT)?;
        inode.changed = SystemTime::now();
        let Node::File { seen, dirty, .. } = &mut inode.node else { return Err(Errno::EISDIR) };
        let before = seen.len();
        seen.resize(size, 0);
        dirty.extend(before.min(size) / PAGE..size.div_ceil(PAGE));
        Ok(())
    }

    fn sync(&mut self, number: u64) -> Result<(), Errno> {
        if self.is_cut {
            return Err(Errno::EIO);
        }
        self.syncs += 1;
        match &mut self.inodes.get_mut(&number).ok_or(Errno::ENOENT)?.node {
            Node::Folder { seen, durable } => durable.clone_from(seen),
            Node::File { seen, durable, dirty } => {
                durable.resize(seen.len(), 0);
                for page in std::mem::take(dirty) {
                    let from = (page * PAGE).min(seen.len());
                    let to = (from + PAGE).min(seen.len());
                    durable[from..to].copy_from_slice(&seen[from..to]);
                }
            }
        }
        if self.is_journaled {
            for inode in self.inodes.values_mut() {
                if let Node::Folder { seen, durable } = &mut inode.node {
                    durable.clone_from(seen);
                }
            }
        }
        Ok(())
    }
}
