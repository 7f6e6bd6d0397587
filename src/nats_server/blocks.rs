//! Blocks of messages in a store that nats-server has left without a stop (N8).
//!
//! A block is a file of records. Each begins with its length, a sequence, a time and the length of its
//! subject, and has a digest of its own that does not depend on its place. The removal of a message is a
//! record too, in the block that is the last one at that time. A file can thus be written again without some
//! records, as nats-server does itself when much of a block was removed.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Bytes before the subject: length (4), sequence (8), time (8), length of the subject (2).
pub(super) const HEADER: usize = 22;
/// In a length: the record has headers.
pub(super) const HAS_HEADERS: u32 = 1 << 31;
/// In a sequence: the record is the removal of the message there.
const REMOVAL: u64 = 1 << 62;
/// In a sequence: the record was erased.
const ERASED: u64 = 1 << 63;
/// nats-server leaves smaller blocks as they are.
const MIN_BYTES: usize = 1 << 20;

/// A record, by its place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    range: Range<usize>,
    sequence: u64,
}

impl Record {
    fn removes(&self) -> Option<u64> {
        (self.sequence & (REMOVAL | ERASED) == REMOVAL).then_some(self.sequence & !REMOVAL)
    }

    fn message(&self) -> Option<u64> {
        (self.sequence & (REMOVAL | ERASED) == 0).then_some(self.sequence)
    }
}

/// The records of a block; `None` if it is torn, encrypted or compressed.
fn records(block: &[u8]) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    let mut begin = 0;
    while begin < block.len() {
        let header = block.get(begin..begin + HEADER)?;
        let length = u32::from_le_bytes(header[..4].try_into().ok()?) & !HAS_HEADERS;
        let sequence = u64::from_le_bytes(header[4..12].try_into().ok()?);
        let end = begin.checked_add(length as usize)?;
        if (length as usize) < HEADER || end > block.len() {
            return None;
        }
        records.push(Record { range: begin..end, sequence });
        begin = end;
    }
    Some(records)
}

/// The numbers and files of the blocks in a folder of messages, in order.
pub(super) fn blocks(messages: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut blocks = Vec::new();
    for entry in fs::read_dir(messages)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        if let Some(number) = number.filter(|_| path.extension().is_some_and(|of| of == "blk")) {
            blocks.push((number, path));
        }
    }
    blocks.sort_unstable();
    Ok(blocks)
}

/// Takes removed messages out of the blocks of all streams of a store. Returns the number of the blocks that
/// were written again.
///
/// # Errors
/// A file cannot be read or written; the store is whole nevertheless.
pub(super) fn drop_removed(store: &Path) -> io::Result<usize> {
    let mut written = 0;
    for stream in streams(store)? {
        written += drop_removed_of(&stream)?;
    }
    Ok(written)
}

/// The folders of all streams of a store that hold messages.
pub(super) fn streams(store: &Path) -> io::Result<Vec<PathBuf>> {
    let mut streams = Vec::new();
    for account in folders(&store.join("jetstream"))? {
        streams.extend(folders(&account.join("streams"))?);
    }
    streams.retain(|stream| stream.join("msgs").is_dir());
    Ok(streams)
}

fn folders(of: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(of) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    paths.filter(|path| path.as_ref().map_or(true, |path| path.is_dir())).collect()
}

fn drop_removed_of(stream: &Path) -> io::Result<usize> {
    let blocks = blocks(&stream.join("msgs"))?;
    let mut written = 0;
    let but_last = blocks.split_last().map_or(&[][..], |(_, earlier)| earlier);
    for (_, path) in but_last {
        let block = fs::read(path)?;
        if block.len() < MIN_BYTES {
            continue;
        }
        let Some(kept) = records(&block).and_then(|records| kept(&records)) else { continue };
        replace(stream, path, kept.into_iter().map(|range| &block[range]))?;
        written += 1;
    }
    if written > 0 {
        sync_folders(stream)?;
    }
    Ok(written)
}

/// Makes blocks durable that were put into the places of others.
pub(super) fn sync_folders(stream: &Path) -> io::Result<()> {
    File::open(stream.join("msgs"))?.sync_all()?;
    File::open(stream)?.sync_all()
}

/// Puts a block of these records into the place of another one. It is durable behind [`sync_folders`].
pub(super) fn replace<'a>(
    stream: &Path,
    block: &Path,
    records: impl Iterator<Item = &'a [u8]>,
) -> io::Result<()> {
    let new = stream.join("block.new");
    let mut file = File::create(&new)?;
    file.set_permissions(fs::metadata(block)?.permissions())?;
    for record in records {
        file.write_all(record)?;
    }
    file.sync_all()?;
    fs::rename(&new, block)
}

/// The ranges that a block keeps; `None` if it has no removal of a message of its own. Removals in later
/// blocks stay in force, so their messages may stay too.
fn kept(records: &[Record]) -> Option<Vec<Range<usize>>> {
    let removals = records.iter().filter_map(|record| Some((record.removes()?, record.range.start)));
    let removals: HashMap<u64, usize> = removals.collect();
    // A message that came behind the removal of its sequence is another one.
    let is_removed = |record: &Record| {
        let removal = record.message().and_then(|sequence| removals.get(&sequence));
        removal.is_some_and(|place| *place > record.range.start)
    };
    let dropped: HashSet<u64> =
        records.iter().filter(|record| is_removed(record)).filter_map(Record::message).collect();
    let is_own = |record: &Record| record.removes().is_some_and(|sequence| dropped.contains(&sequence));
    (!dropped.is_empty()).then(|| {
        let kept = records.iter().filter(|record| !is_removed(record) && !is_own(record));
        kept.map(|record| record.range.clone()).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sequence: u64, payload: usize) -> Vec<u8> {
        let mut record = vec![0; HEADER + payload];
        let length = (record.len() as u32).to_le_bytes();
        record[..4].copy_from_slice(&length);
        record[4..12].copy_from_slice(&sequence.to_le_bytes());
        record
    }

    fn sequences(path: &Path) -> Vec<u64> {
        records(&fs::read(path).unwrap()).unwrap().iter().map(|record| record.sequence).collect()
    }

    fn store(blocks: &[&[u64]]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let messages = dir.path().join("jetstream/$G/streams/KV/msgs");
        fs::create_dir_all(&messages).unwrap();
        for (number, block) in blocks.iter().enumerate() {
            let payload = |sequence: u64| if sequence & REMOVAL == 0 { MIN_BYTES } else { 8 };
            let block: Vec<u8> = block.iter().flat_map(|of| record(*of, payload(*of))).collect();
            fs::write(messages.join(format!("{}.blk", number + 1)), block).unwrap();
        }
        (dir, messages)
    }

    #[test]
    fn removed_messages_leave_their_block_with_the_removals_in_it() {
        let (dir, messages) =
            store(&[&[1, 2, 3, REMOVAL | 2, 4], &[5, REMOVAL | 3, REMOVAL | 5], &[6, REMOVAL | 6]]);
        assert_eq!(drop_removed(dir.path()).unwrap(), 2);
        // The removal of 3 is in the next block.
        assert_eq!(sequences(&messages.join("1.blk")), [1, 3, 4]);
        assert_eq!(sequences(&messages.join("2.blk")), [REMOVAL | 3]);
        assert_eq!(sequences(&messages.join("3.blk")), [6, REMOVAL | 6]);
        assert_eq!(drop_removed(dir.path()).unwrap(), 0);
    }

    #[test]
    fn a_message_behind_the_removal_of_its_sequence_stays() {
        let (dir, messages) = store(&[&[1, 2, REMOVAL | 2, REMOVAL | 3, 3], &[4]]);
        assert_eq!(drop_removed(dir.path()).unwrap(), 1);
        assert_eq!(sequences(&messages.join("1.blk")), [1, REMOVAL | 3, 3]);
    }

    #[test]
    fn a_torn_block_stays_as_it_is() {
        let (dir, messages) = store(&[&[1, 2, REMOVAL | 2], &[3]]);
        let path = messages.join("1.blk");
        let mut torn = fs::read(&path).unwrap();
        torn.extend(&record(4, 100)[..50]);
        fs::write(&path, &torn).unwrap();
        assert_eq!(drop_removed(dir.path()).unwrap(), 0);
        assert_eq!(fs::read(&path).unwrap(), torn);
    }
}
