//! Group durability: many acknowledged messages made durable by one sync of the store's files.
//!
//! nats-server acknowledges a message after `write(2)`, and the kernel brings it to the disk later. A sync of
//! the same file through any descriptor makes all messages durable that were written before. So jetway queues
//! messages while one sync runs, and the next one makes the whole queue durable.
//!
//! Properties of the store that this relies on (checked on nats-server 2.15):
//! - D1: a message is in a `<n>.blk` file of its stream's `msgs` folder before it is acknowledged or
//!   delivered.
//! - D2: messages are appended to the block with the highest number, and numbers only grow. Other blocks
//!   change only by being rewritten as a whole: another file is renamed into their place.
//! - D3: a start of the server replays each block up to the first record that is damaged.
//!
//! From D1 and D2: a sync covers each block that is not older than the newest one of the sync before, then
//! each block that was rewritten since, and then the folder, if files came or went. After it every message
//! that was delivered before is on the disk. The folder comes last: a rename must not become durable before
//! the content of the file that it puts in place.
//!
//! For the same reason nothing may be renamed between the listing of the folder and its sync. The server
//! rewrites blocks when messages are removed, and only jetway removes messages: a [`RewriteLock`] keeps
//! removals and syncs of the folder apart. The server also rewrites blocks by itself every two minutes, and
//! syncs them at once. jetway syncs them once more before it passes anything on. A power cut between these
//! two syncs does harm only on a file system that makes a rename durable before the data of the file (ext4
//! and btrfs do not).
//!
//! If the folder is not found or holds no block, the whole store is synced.

mod gate;

pub(crate) use gate::{Gate, NotDurable};

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The time at which a write is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Before it is answered, many with one sync.
    Group,
    /// Before it is answered, each with a sync of its own.
    Always,
    /// Within two minutes: a power failure can take it back.
    Lazy,
    /// Decided by the configuration of an existing NATS.
    Nats,
}

impl Level {
    /// Its name in metrics, logs and the response to a Status call: the value of `--sync` for the embedded
    /// server.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Level::Group => "group",
            Level::Always => "always",
            Level::Lazy => "lazy",
            Level::Nats => "nats",
        }
    }
}

/// Resolution of a file system's clock at worst. A second change within this time may leave the time stamp of
/// a folder as it is.
const TIMESTAMP_RESOLUTION: Duration = Duration::from_millis(100);

/// Held during a removal, which makes the server rewrite blocks, and during a sync of the blocks' folder.
pub(crate) type RewriteLock = Arc<tokio::sync::Mutex<()>>;

/// Inode and time stamp of a block's file, which change with the file; `None` if a later change could leave
/// both as they are.
type Identity = Option<(u64, SystemTime)>;

/// The files of one stream.
#[derive(Debug)]
pub(crate) struct StreamFiles {
    store: PathBuf,
    stream: String,
    rewrites: RewriteLock,
    known: Option<Folder>,
}

/// The folder as the last sync found it.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    file: File,
    /// The folder's time stamp before it was listed; `None` if a later change could leave it as it is.
    stamp: Option<SystemTime>,
    blocks: BTreeMap<u64, Identity>,
    /// The newest block. It is kept open, so that the kernel reports its write errors to this descriptor.
    newest: Option<File>,
}

/// Syncs all files of `store` and their folders. A file comes before its folder, for the same reason as
/// above. (`syncfs` would also write the data of other programs on the file system.)
///
/// # Errors
/// That of the file system.
pub(crate) fn sync_all(store: &Path) -> io::Result<()> {
    sync_below(store)?;
    store.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

fn sync_below(folder: &Path) -> io::Result<()> {
    let opened = File::open(folder)?;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let synced = if path.is_dir() {
            sync_below(&path)
        } else {
            File::open(&path).and_then(|file| file.sync_data())
        };
        match synced {
            // It was removed after the listing; the sync of the folder covers that.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            synced => synced?,
        }
    }
    opened.sync_all()
}

impl StreamFiles {
    /// The files of `stream` in the JetStream store below `store`. A removal of messages holds `rewrites`
    /// meanwhile.
    pub(crate) fn new(store: &Path, stream: &str, rewrites: RewriteLock) -> StreamFiles {
        StreamFiles { store: store.to_owned(), stream: stream.to_owned(), rewrites, known: None }
    }

    /// Makes the next sync one of the whole store: a server that was started again may have changed any file.
    pub(crate) fn forget(&mut self) {
        self.known = None;
    }

    /// Returns when everything written before is durable. After an error it is unknown which data is durable:
    /// the kernel drops data that it could not write. Blocks its thread while the disk works.
    ///
    /// # Errors
    /// That of the file system.
    pub(crate) async fn sync(&mut self) -> io::Result<()> {
        match &mut self.known {
            Some(folder) if !folder.has_changed() => folder.sync_newest(),
            Some(folder) => {
                let _rewrites = self.rewrites.lock().await;
                folder.sync()
            }
            None => self.sync_all().await,
        }
    }

    async fn sync_all(&mut self) -> io::Result<()> {
        let _rewrites = self.rewrites.lock().await;
        // The listing comes first, so that the next sync finds files that change between the listing and this
        // sync.
        let folder = self.find().map(|path| Folder::open(&path)).transpose()?;
        sync_all(&self.store)?;
        self.known = folder.filter(|folder| folder.newest.is_some());
        Ok(())
    }

    /// The folder of the stream's blocks, below the account's.
    fn find(&self) -> Option<PathBuf> {
        let accounts = std::fs::read_dir(self.store.join("jetstream")).ok()?;
        let mut found =
            accounts.flatten().map(|account| account.path().join("streams").join(&self.stream).join("msgs"));
        let path = found.find(|path| path.is_dir())?;
        // With the same name in two accounts the folder is unknown.
        found.all(|other| !other.is_dir()).then_some(path)
    }
}

impl Folder {
    fn open(path: &Path) -> io::Result<Folder> {
        let mut folder = Folder {
            path: path.to_owned(),
            file: File::open(path)?,
            stamp: None,
            blocks: BTreeMap::new(),
            newest: None,
        };
        folder.list()?;
        Ok(folder)
    }

    /// Whether files may have come, gone, or been replaced since the last listing.
    fn has_changed(&self) -> bool {
        self.stamp.is_none_or(|stamp| {
            // If the folder cannot be read, the listing reports the reason.
            self.file.metadata().and_then(|metadata| metadata.modified()).ok() != Some(stamp)
        })
    }

    fn sync_newest(&self) -> io::Result<()> {
        self.newest.as_ref().map_or(Ok(()), File::sync_data)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_newest()?;
        sync_files(self.list()?)?;
        self.file.sync_all()?;
        // The server may have rewritten blocks by itself meanwhile.
        if self.has_changed() { sync_files(self.list()?) } else { Ok(()) }
    }

    /// Lists the folder, and returns the files that are new or have changed. The newest block is always one
    /// of them, as it may grow at any time.
    fn list(&mut self) -> io::Result<Vec<PathBuf>> {
        let stamp = self.file.metadata()?.modified()?;
        let now = SystemTime::now();
        let mut blocks = BTreeMap::new();
        let mut changed = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let path = entry?.path();
            let Some(number) = block_number(&path) else { continue };
            let metadata = match path.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let modified = metadata.modified()?;
            let identity = is_settled(modified, now).then_some((metadata.ino(), modified));
            if identity.is_none() || self.blocks.get(&number) != Some(&identity) {
                changed.push(path);
            }
            blocks.insert(number, identity);
        }
        self.newest = match blocks.last_key_value() {
            Some((&number, _)) => {
                let path = self.path.join(format!("{number}.blk"));
                let file = File::open(&path)?;
                changed.push(path);
                Some(file)
            }
            None => None,
        };
        self.blocks = blocks;
        self.stamp = is_settled(stamp, now).then_some(stamp);
        Ok(changed)
    }
}

fn sync_files(paths: Vec<PathBuf>) -> io::Result<()> {
    for path in paths {
        match File::open(&path) {
            Ok(file) => file.sync_data()?,
            // The server has removed the block, since all of its messages were removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether a change from `now` on would change a time stamp.
fn is_settled(stamp: SystemTime, now: SystemTime) -> bool {
    now.duration_since(stamp).is_ok_and(|age| age > TIMESTAMP_RESOLUTION)
}

fn block_number(path: &Path) -> Option<u64> {
    if path.extension()? != "blk" {
        return None;
    }
    path.file_stem()?.to_str()?.parse().ok()
}
