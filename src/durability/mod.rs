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
//!
//! nats-server replaces the whole folder when a copy begins anew: it renames `msgs` away and another folder
//! into its place. Names that are not found may stand elsewhere then. So a folder counts as synced only if it
//! is in its place afterwards. Otherwise the folder above is listed again, and the whole store is synced.

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

/// Looks at a folder while others in it come and go. Each look syncs what is there.
const MAX_LOOKS: u32 = 100;

/// Syncs all files of `store` and their folders. A file comes before its folder, for the same reason as
/// above. (`syncfs` would also write the data of other programs on the file system.)
///
/// # Errors
/// That of the file system, with the path.
pub(crate) fn sync_all(store: &Path) -> io::Result<()> {
    sync_below(store)?;
    store.parent().map_or(Ok(()), |parent| {
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(|error| at(parent, &error))
    })
}

/// Fails with [`io::ErrorKind::NotFound`] if the folder is not in its place any more.
fn sync_below(folder: &Path) -> io::Result<()> {
    let opened = File::open(folder).map_err(|error| at(folder, &error))?;
    let mut looks = 0;
    while !sync_entries(folder)? {
        looks += 1;
        if looks == MAX_LOOKS {
            return Err(at(folder, &io::Error::other("its folders are replaced again and again")));
        }
    }
    opened.sync_all().map_err(|error| at(folder, &error))?;
    if is_in_place(&opened, folder) { Ok(()) } else { Err(replaced(folder)) }
}

/// Returns whether each folder in it was in its place until it was synced.
fn sync_entries(folder: &Path) -> io::Result<bool> {
    let mut is_whole = true;
    for entry in std::fs::read_dir(folder).map_err(|error| at(folder, &error))? {
        let entry = entry.map_err(|error| at(folder, &error))?;
        let path = entry.path();
        // The listing's own kind comes first: a folder that is gone by now has none of its own.
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir()) || path.is_dir();
        let synced = if is_folder { sync_below(&path) } else { sync_file(&path) };
        match synced {
            // A file was removed after the listing; the sync of the folder covers that.
            Err(error) if error.kind() == io::ErrorKind::NotFound => is_whole &= !is_folder,
            synced => synced?,
        }
    }
    Ok(is_whole)
}

fn sync_file(path: &Path) -> io::Result<()> {
    File::open(path).and_then(|file| file.sync_data()).map_err(|error| at(path, &error))
}

/// Whether a path still leads to an open file or folder.
fn is_in_place(opened: &File, path: &Path) -> bool {
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let opened = opened.metadata().map(identity);
    opened.is_ok_and(|opened| std::fs::metadata(path).map(identity).is_ok_and(|found| found == opened))
}

fn replaced(folder: &Path) -> io::Error {
    at(folder, &io::Error::new(io::ErrorKind::NotFound, "the folder was replaced or removed"))
}

/// The error with the path that it is about.
fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
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
    /// That of the file system, with the path.
    pub(crate) async fn sync(&mut self) -> io::Result<()> {
        if let Some(folder) = &self.known
            && !folder.has_changed()
        {
            return folder.sync_newest();
        }
        let rewrites = Arc::clone(&self.rewrites);
        let _rewrites = rewrites.lock().await;
        match self.known.as_mut().map(Folder::sync) {
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                // The server has put another folder in its place.
                self.known = None;
                self.sync_all()
            }
            Some(synced) => synced,
            None => self.sync_all(),
        }
    }

    fn sync_all(&mut self) -> io::Result<()> {
        // The listing comes first, so that the next sync finds files that change between the listing and this
        // sync.
        let folder = match self.find().map(|path| Folder::open(&path)).transpose() {
            // It is being replaced. The next sync looks at it again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            folder => folder?,
        };
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
            file: File::open(path).map_err(|error| at(path, &error))?,
            stamp: None,
            blocks: BTreeMap::new(),
            newest: None,
        };
        folder.list()?;
        Ok(folder)
    }

    /// Whether files may have come, gone, or been replaced since the last listing, or the folder itself was
    /// replaced: its own time stamp does not show that.
    fn has_changed(&self) -> bool {
        !is_in_place(&self.file, &self.path)
            || self.stamp.is_none_or(|stamp| {
                // If the folder cannot be read, the listing reports the reason.
                self.file.metadata().and_then(|metadata| metadata.modified()).ok() != Some(stamp)
            })
    }

    fn sync_newest(&self) -> io::Result<()> {
        let synced = self.newest.as_ref().map_or(Ok(()), File::sync_data);
        synced.map_err(|error| at(&self.path, &error))
    }

    /// Fails with [`io::ErrorKind::NotFound`] if the folder is not in its place any more.
    fn sync(&mut self) -> io::Result<()> {
        self.sync_newest()?;
        sync_files(self.list()?)?;
        self.file.sync_all().map_err(|error| at(&self.path, &error))?;
        // The server may have rewritten blocks by itself meanwhile.
        if self.has_changed() {
            sync_files(self.list()?)?;
        }
        // Blocks that were not found were removed, unless the whole folder was.
        if is_in_place(&self.file, &self.path) { Ok(()) } else { Err(replaced(&self.path)) }
    }

    /// Lists the folder, and returns the files that are new or have changed. The newest block is always one
    /// of them, as it may grow at any time.
    fn list(&mut self) -> io::Result<Vec<PathBuf>> {
        let in_folder = |error: io::Error| at(&self.path, &error);
        let stamp = self.file.metadata().and_then(|metadata| metadata.modified()).map_err(in_folder)?;
        let now = SystemTime::now();
        let mut blocks = BTreeMap::new();
        let mut changed = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(in_folder)? {
            let path = entry.map_err(in_folder)?.path();
            let Some(number) = block_number(&path) else { continue };
            let metadata = match path.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(at(&path, &error)),
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
                let file = File::open(&path).map_err(|error| at(&path, &error))?;
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
        match sync_file(&path) {
            // The server has removed the block, since all of its messages were removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            synced => synced?,
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const MSGS: &str = "jetstream/JW/streams/KV_test/msgs";

    fn store() -> (tempfile::TempDir, StreamFiles) {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("nats");
        fs::create_dir_all(store.join(MSGS)).unwrap();
        fs::write(store.join(MSGS).join("1.blk"), "first").unwrap();
        let files = StreamFiles::new(&store, "KV_test", RewriteLock::default());
        (dir, files)
    }

    /// Replaces the folder of the blocks as nats-server does, which takes `window` in the middle.
    fn replace(store: &Path, window: Duration) {
        let folder = store.join(MSGS);
        let (old, new) = (folder.with_file_name("__msgs__"), folder.with_file_name("__new_msgs__"));
        fs::create_dir(&new).unwrap();
        fs::write(new.join("1.blk"), "again").unwrap();
        fs::rename(&folder, &old).unwrap();
        std::thread::sleep(window);
        fs::rename(&new, &folder).unwrap();
        fs::remove_dir_all(&old).unwrap();
    }

    #[tokio::test]
    async fn a_folder_that_the_server_replaces_is_looked_at_again() {
        let (_dir, mut files) = store();
        let store = files.store.clone();
        let server = std::thread::spawn(move || {
            for _ in 0..50 {
                replace(&store, Duration::from_millis(2));
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        let mut round = 0;
        while !server.is_finished() {
            round += 1;
            if round % 2 == 0 {
                files.forget();
            }
            files.sync().await.unwrap();
        }
        server.join().unwrap();
        files.sync().await.unwrap();
        assert!(files.known.as_ref().is_some_and(|folder| is_in_place(&folder.file, &folder.path)));
    }

    #[tokio::test]
    async fn another_folder_in_its_place_is_a_change() {
        let (_dir, mut files) = store();
        std::thread::sleep(2 * TIMESTAMP_RESOLUTION);
        files.sync().await.unwrap();
        assert!(!files.known.as_ref().unwrap().has_changed());
        let folder = files.store.join(MSGS);
        let old = folder.with_file_name("__msgs__");
        fs::rename(&folder, &old).unwrap();
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("7.blk"), "again").unwrap();
        assert!(files.known.as_ref().unwrap().has_changed(), "the old folder itself is as it was");
        files.sync().await.unwrap();
        assert!(files.known.as_ref().unwrap().blocks.keys().eq(&[7]));
        // In the middle of it there is none.
        fs::remove_dir_all(&folder).unwrap();
        files.sync().await.unwrap();
        assert!(files.known.is_none(), "the next sync is one of the whole store again");
    }

    #[tokio::test]
    async fn a_store_that_is_gone_is_an_error_that_names_it() {
        let (_dir, mut files) = store();
        files.sync().await.unwrap();
        fs::remove_dir_all(&files.store).unwrap();
        let error = files.sync().await.unwrap_err().to_string();
        assert!(error.starts_with(files.store.to_str().unwrap()), "{error}");
    }
}
