//! Group durability: many acknowledged messages made durable by one sync of the store's files.
//!
//! nats-server acknowledges a message after `write(2)` and leaves it to the kernel when it reaches the disk. A sync of the
//! same file through any descriptor settles that, for all messages written before it. So jetway lets messages queue
//! while one sync runs, and brings the whole queue to the disk with the next.
//!
//! What is relied on, of the store (checked on nats-server 2.15):
//! - D1: a message is in a `<n>.blk` file of its stream's `msgs` folder before it is acknowledged or delivered.
//! - D2: messages are appended to the block with the highest number, and numbers only grow. Other blocks change only by
//!   being rewritten as a whole: another file is renamed into their place.
//! - D3: a start of the server replays each block up to the first record that is damaged.
//!
//! From D1 and D2: after a sync of every block that is not older than the newest one of the sync before, of all that were
//! rewritten since, and then of the folder where files came or went, whatever was delivered before that sync is on the disk.
//! The folder goes last: a rename must not become durable before the content of the file that it puts in place.
//!
//! For the same reason nothing may be renamed between the listing of the folder and its sync. Removals are what makes the
//! server rewrite blocks, and they are ours: a [`Quiet`] keeps them and the syncs of the folder apart. What the server does
//! by itself every two minutes it syncs at once, and we once more before anything is passed on; a power cut within the
//! moment between the two syncs needs a file system that puts a rename before the data it names (ext4 and btrfs do not).
//!
//! A folder that is not found or holds no block is no reason to guess: then the whole store is synced instead.

mod gate;

pub use gate::{Gate, NotDurable};

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// When an answered write is on stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Before it is answered, many with one sync.
    Group,
    /// Before it is answered, each with a sync of its own.
    Always,
    /// Within two minutes: a power failure can take it back.
    Lazy,
    /// When the servers of somebody else's NATS bring it there.
    Nats,
}

impl Level {
    /// Its name in metrics, logs and the answer to a Status call; those of `--sync` where it was chosen by that.
    pub fn name(self) -> &'static str {
        match self {
            Level::Group => "group",
            Level::Always => "always",
            Level::Lazy => "lazy",
            Level::Nats => "nats",
        }
    }
}

/// A file system stamps a folder with a clock that may be this coarse: within that time of its last change, another change
/// may leave the stamp as it is.
const STAMP_GRAIN: Duration = Duration::from_millis(100);

/// Held by whoever makes the server rewrite blocks, and by whoever syncs the folder that they are in.
pub type Quiet = Arc<tokio::sync::Mutex<()>>;

/// What tells a block's file from another one, and from itself before it was changed; `None` where a later change could
/// leave no trace in it.
type Identity = Option<(u64, SystemTime)>;

/// The files of one stream.
#[derive(Debug)]
pub struct StreamFiles {
    store: PathBuf,
    stream: String,
    quiet: Quiet,
    known: Option<Folder>,
}

/// What the last sync found.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    file: File,
    /// The folder's stamp before it was listed; `None` where a later change could have the same.
    stamp: Option<SystemTime>,
    blocks: BTreeMap<u64, Identity>,
    /// The newest block. Kept open, so that the kernel reports to us what it could not write.
    newest: Option<File>,
}

/// Brings all files of `store` to the disk, and which there are. Files before the folder that names them, for the same reason
/// as above. (`syncfs` would bring along what other programs have written to the same file system.)
pub fn sync_all(store: &Path) -> io::Result<()> {
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
            // Gone since it was listed, which is for the folder to tell.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            synced => synced?,
        }
    }
    opened.sync_all()
}

impl StreamFiles {
    /// The files of `stream` in the JetStream store below `store`. Whoever removes messages of it holds `quiet` meanwhile.
    pub fn new(store: &Path, stream: &str, quiet: Quiet) -> StreamFiles {
        StreamFiles { store: store.to_owned(), stream: stream.to_owned(), quiet, known: None }
    }

    /// Forgets what is known of the files; the next sync is one of the whole store. For a server that was started
    /// again, which may have changed any of them.
    pub fn forget(&mut self) {
        self.known = None;
    }

    /// Returns when all that was written before is durable. After an error nobody knows what is: the kernel forgets what it
    /// could not write. Blocks while the disk works: for a thread that has nothing else to do.
    pub async fn sync(&mut self) -> io::Result<()> {
        match &mut self.known {
            Some(folder) if !folder.has_changed() => folder.sync_newest(),
            Some(folder) => {
                let _quiet = self.quiet.lock().await;
                folder.sync()
            }
            None => self.sync_all().await,
        }
    }

    async fn sync_all(&mut self) -> io::Result<()> {
        let _quiet = self.quiet.lock().await;
        // Listed first: what changes between the listing and the sync is found changed by the next one.
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
        // The same name in two accounts: which is ours?
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
            // A folder that cannot be asked is one to be listed, which will say why.
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
        // What the server replaced meanwhile by itself.
        if self.has_changed() { sync_files(self.list()?) } else { Ok(()) }
    }

    /// Looks at what is there; answers the files that are new or have changed. The newest block counts among them, as it
    /// may grow at any time.
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
            // Its messages have all been removed since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether a change from `now` on would show in a stamp.
fn is_settled(stamp: SystemTime, now: SystemTime) -> bool {
    now.duration_since(stamp).is_ok_and(|age| age > STAMP_GRAIN)
}

fn block_number(path: &Path) -> Option<u64> {
    if path.extension()? != "blk" {
        return None;
    }
    path.file_stem()?.to_str()?.parse().ok()
}
