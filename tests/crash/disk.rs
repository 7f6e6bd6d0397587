//! A file system in memory that remembers two states of everything: what programs see, and what would be
//! there after a power cut.
//!
//! The second moves only with a sync, and no further than its caller asked: `fsync` of a file makes that
//! file's content durable and not its name, `fsync` of a folder its names and not what they point to. A cut
//! stops everything with EIO and throws the first state away. If a test asks for it, some of the pages that
//! were written and not synced survive it all the same, as they may on a real disk that the kernel writes to
//! when it likes.

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

const PAGE: usize = 4096;
/// Nothing is cached by the kernel that could outlive a change.
const TTL: Duration = Duration::ZERO;
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
    syncs: u64,
}

/// The disk; clones share it. It outlives its mounts.
#[derive(Clone, Debug)]
pub struct Disk {
    state: Arc<Mutex<State>>,
}

impl Disk {
    pub fn new() -> Disk {
        let root = Inode {
            node: Node::Folder { seen: BTreeMap::new(), durable: BTreeMap::new() },
            mode: 0o755,
            changed: SystemTime::now(),
        };
        let state = State { inodes: BTreeMap::from([(ROOT, root)]), next: ROOT + 1, is_cut: false, syncs: 0 };
        Disk { state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// From here on nothing is read or written.
    pub fn cut(&self) {
        self.lock().is_cut = true;
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
        Ok(())
    }
}

fn done(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = self.lock();
        let found = match state.inodes.get(&parent.0).map(|inode| &inode.node) {
            _ if state.is_cut => return reply.error(Errno::EIO),
            Some(Node::Folder { seen, .. }) => seen.get(name).and_then(|number| state.attr(*number)),
            _ => None,
        };
        match found {
            Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.lock().attr(ino.0) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.lock();
        if let (Some(mode), Some(inode)) = (mode, state.inodes.get_mut(&ino.0)) {
            inode.mode = (mode & 0o777) as u16;
        }
        if let Some(Err(error)) = size.map(|size| state.truncate(ino.0, size as usize)) {
            return reply.error(error);
        }
        match state.attr(ino.0) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let node = Node::Folder { seen: BTreeMap::new(), durable: BTreeMap::new() };
        match self.lock().add(parent.0, name, mode, node) {
            Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let node = Node::File { seen: Vec::new(), durable: Vec::new(), dirty: BTreeSet::new() };
        match self.lock().add(parent.0, name, mode, node) {
            Ok(attr) => reply.created(&TTL, &attr, Generation(0), FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.lock().remove(parent.0, name));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.lock().remove(parent.0, name));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut state = self.lock();
        done(reply, state.rename((parent.0, name), (newparent.0, newname)));
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let state = self.lock();
        match state.inodes.get(&ino.0).map(|inode| &inode.node) {
            _ if state.is_cut => reply.error(Errno::EIO),
            Some(Node::File { seen, .. }) => {
                let from = (offset as usize).min(seen.len());
                reply.data(&seen[from..(from + size as usize).min(seen.len())]);
            }
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.lock().write(ino.0, offset as usize, data) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        done(reply, self.lock().sync(ino.0));
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        done(reply, self.lock().sync(ino.0));
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let state = self.lock();
        let Some(Node::Folder { seen, .. }) = state.inodes.get(&ino.0).map(|inode| &inode.node) else {
            return reply.error(Errno::ENOTDIR);
        };
        if state.is_cut {
            return reply.error(Errno::EIO);
        }
        let dots = [".", ".."].map(|name| (OsString::from(name), ino.0));
        let entries = dots.into_iter().chain(seen.iter().map(|(name, number)| (name.clone(), *number)));
        for (at, (name, number)) in entries.enumerate().skip(offset as usize) {
            let kind = match state.inodes.get(&number).map(|inode| &inode.node) {
                Some(Node::Folder { .. }) => FileType::Directory,
                _ => FileType::RegularFile,
            };
            if reply.add(INodeNo(number), at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let (block, blocks) = (PAGE as u32, 16 << 20);
        reply.statfs(blocks, blocks, blocks, 1 << 20, 1 << 20, block, 255, block);
    }
}
