//! Reads files in bbolt's format, page by page.
//!
//! A file may be larger than the memory, and may be damaged. So one page of each level is in memory at a
//! time, and every number is checked before it is used. bbolt has no checksums on pages with content: a
//! damage is found where the structure breaks.
//!
//! The reading is written here, beside the writing: the crates that read bbolt's files map them whole, and
//! have few users.

use super::bbolt::{BRANCH, BUCKET, ELEMENT, HEADER, LEAF, MAGIC, META, VERSION, fnv1a};
use bytes::Bytes;
use ring::digest::{Context, SHA256};
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use thiserror::Error;

/// Sizes of pages that bbolt tries if the first description of a file is damaged.
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 10..=16;
/// Bytes of a description that its checksum covers.
const META_BYTES: usize = 56;
/// No tree of etcd's has so many levels.
const MAX_LEVELS: usize = 64;
/// Bytes of a bucket before its content.
const BUCKET_HEADER: usize = 16;

/// A file that cannot be read.
#[derive(Debug, Error)]
pub(crate) enum ReadError {
    /// The file system.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// Another kind of file.
    #[error("is no database of etcd: neither of its first two pages describes one")]
    Foreign,
    /// The file ends too early.
    #[error("is cut off: it has {found} bytes, and its pages take {expected}")]
    Short {
        /// The size of the file.
        found: u64,
        /// The size that its description names.
        expected: u64,
    },
    /// A page that makes no sense.
    #[error("is damaged in page {page} (at byte {at}): {reason}")]
    Page {
        /// The number of the page.
        page: u64,
        /// Its place in the file.
        at: u64,
        /// The mistake.
        reason: &'static str,
    },
}

/// An open file.
#[derive(Debug)]
pub(crate) struct Database {
    file: File,
    page_size: u64,
    /// The number of pages.
    pages: u64,
    root: u64,
}

/// The content of a page, its continuation included.
#[derive(Clone, Debug)]
struct Page {
    number: u64,
    bytes: Bytes,
    kind: u16,
    count: usize,
}

/// A bucket of the root.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    /// Its name.
    pub(crate) name: Bytes,
    root: Page,
}

impl Database {
    /// The SHA-256 of all pages, as digits. That of a snapshot stands at the end of its file.
    pub(crate) fn sha256(&self) -> Result<String, ReadError> {
        let mut context = Context::new(&SHA256);
        let mut page = vec![0; self.page_size as usize];
        for number in 0..self.pages {
            self.file.read_exact_at(&mut page, number * self.page_size)?;
            context.update(&page);
        }
        let digest = context.finish();
        Ok(digest.as_ref().iter().fold(String::new(), |mut digits, byte| {
            write!(digits, "{byte:02x}").expect("writing to a string cannot fail");
            digits
        }))
    }

    /// Opens a file, of which the first `size` bytes are the database.
    pub(crate) fn open(file: File, size: u64) -> Result<Database, ReadError> {
        let meta_at = |at: u64| -> Result<Option<Meta>, ReadError> {
            let mut bytes = [0; HEADER + META_BYTES + 8];
            if at + bytes.len() as u64 > size {
                return Ok(None);
            }
            file.read_exact_at(&mut bytes, at)?;
            Ok(Meta::read(&bytes))
        };
        let first = meta_at(0)?;
        let second = if let Some(meta) = &first {
            meta_at(meta.page_size)?
        } else {
            let mut second = None;
            for at in PAGE_SIZES.map(|bits| 1 << bits) {
                second = meta_at(at)?.filter(|meta| meta.page_size == at);
                if second.is_some() {
                    break;
                }
            }
            second
        };
        let newest = first.into_iter().chain(second).max_by_key(|meta| meta.transaction);
        let Meta { page_size, root, pages, .. } = newest.ok_or(ReadError::Foreign)?;
        let expected = pages.saturating_mul(page_size);
        if size < expected {
            return Err(ReadError::Short { found: size, expected });
        }
        Ok(Database { file, page_size, pages, root })
    }

    /// The bytes of all pages.
    pub(crate) fn size(&self) -> u64 {
        self.pages * self.page_size
    }

    /// The buckets, ascending by name.
    pub(crate) fn buckets(&self) -> Result<Vec<Bucket>, ReadError> {
        let mut buckets = Vec::new();
        let mut cursor = Cursor::new(self, self.page(self.root)?);
        while let Some(Pair { key, value, is_bucket, page }) = cursor.step()? {
            if is_bucket {
                buckets.push(Bucket { name: key, root: self.bucket_root(&value, page)? });
            }
        }
        Ok(buckets)
    }

    /// The pairs of a bucket, ascending.
    pub(crate) fn pairs(&self, bucket: &Bucket) -> Cursor<'_> {
        Cursor::new(self, bucket.root.clone())
    }

    /// The root of a bucket, which a small bucket holds in itself.
    fn bucket_root(&self, value: &Bytes, page: u64) -> Result<Page, ReadError> {
        if value.len() < BUCKET_HEADER {
            return Err(self.damaged(page, "a bucket has no header"));
        }
        match u64_at(value, 0) {
            0 => self.parse(page, value.slice(BUCKET_HEADER..)),
            root => self.page(root),
        }
    }

    fn damaged(&self, page: u64, reason: &'static str) -> ReadError {
        ReadError::Page { page, at: page.saturating_mul(self.page_size), reason }
    }

    fn page(&self, number: u64) -> Result<Page, ReadError> {
        if number < 2 || number >= self.pages {
            return Err(self.damaged(number, "no such page"));
        }
        let at = number * self.page_size;
        let mut bytes = vec![0; self.page_size as usize];
        self.file.read_exact_at(&mut bytes, at)?;
        if u64_at(&bytes, 0) != number {
            return Err(self.damaged(number, "it has the number of another page"));
        }
        let more = u64::from(u32_at(&bytes, 12));
        if number + more >= self.pages {
            return Err(self.damaged(number, "its continuation is behind the end of the file"));
        }
        if more > 0 {
            bytes.resize(((more + 1) * self.page_size) as usize, 0);
            self.file.read_exact_at(&mut bytes[self.page_size as usize..], at + self.page_size)?;
        }
        self.parse(number, bytes.into())
    }

    fn parse(&self, number: u64, bytes: Bytes) -> Result<Page, ReadError> {
        if bytes.len() < HEADER {
            return Err(self.damaged(number, "it has no header"));
        }
        let (kind, count) = (u16_at(&bytes, 8), usize::from(u16_at(&bytes, 10)));
        if kind != BRANCH && kind != LEAF {
            return Err(self.damaged(number, "it is neither an inner page nor a leaf"));
        }
        if HEADER + count * ELEMENT > bytes.len() {
            return Err(self.damaged(number, "it has more elements than room"));
        }
        Ok(Page { number, bytes, kind, count })
    }

    fn slice(&self, page: &Page, from: usize, length: usize) -> Result<Bytes, ReadError> {
        let end = from.checked_add(length).filter(|end| *end <= page.bytes.len());
        let end = end.ok_or_else(|| self.damaged(page.number, "an element lies behind its end"))?;
        Ok(page.bytes.slice(from..end))
    }
}

/// A description of the file.
struct Meta {
    page_size: u64,
    root: u64,
    pages: u64,
    transaction: u64,
}

impl Meta {
    fn read(page: &[u8]) -> Option<Meta> {
        let meta = &page[HEADER..];
        let is_valid = u16_at(page, 8) == META
            && u32_at(meta, 0) == MAGIC
            && u32_at(meta, 4) == VERSION
            && u64_at(meta, META_BYTES) == fnv1a(&meta[..META_BYTES]);
        let page_size = u32_at(meta, 8);
        let is_usual = page_size.is_power_of_two() && PAGE_SIZES.contains(&page_size.trailing_zeros());
        (is_valid && is_usual).then(|| Meta {
            page_size: page_size.into(),
            root: u64_at(meta, 16),
            pages: u64_at(meta, 40),
            transaction: u64_at(meta, 48),
        })
    }
}

/// Walks over the pairs of a bucket.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    database: &'a Database,
    /// The open page of each level, and the next element in it.
    open: Vec<(Page, usize)>,
    last: Option<Bytes>,
    /// The number of pages that were read.
    read: u64,
}

struct Pair {
    key: Bytes,
    value: Bytes,
    is_bucket: bool,
    page: u64,
}

impl<'a> Cursor<'a> {
    fn new(database: &'a Database, root: Page) -> Cursor<'a> {
        Cursor { database, open: vec![(root, 0)], last: None, read: 0 }
    }

    /// The next key and its value.
    pub(crate) fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, ReadError> {
        Ok(self.step()?.map(|pair| (pair.key, pair.value)))
    }

    fn step(&mut self) -> Result<Option<Pair>, ReadError> {
        let database = self.database;
        loop {
            let level = self.open.len();
            let Some((page, next)) = self.open.last_mut() else { return Ok(None) };
            if *next == page.count {
                self.open.pop();
                continue;
            }
            let at = HEADER + *next * ELEMENT;
            *next += 1;
            let bytes = &page.bytes;
            if page.kind == BRANCH {
                let child = database.page(u64_at(bytes, at + 8))?;
                self.read += 1;
                if level == MAX_LEVELS || self.read > database.pages {
                    return Err(database.damaged(page.number, "it is part of a circle"));
                }
                self.open.push((child, 0));
                continue;
            }
            let [flags, distance, key, value] = [0, 4, 8, 12].map(|part| u32_at(bytes, at + part));
            let from = at + distance as usize;
            let number = page.number;
            let (key, value) = (
                database.slice(page, from, key as usize)?,
                database.slice(page, from.saturating_add(key as usize), value as usize)?,
            );
            if self.last.as_ref().is_some_and(|last| *last >= key) {
                return Err(database.damaged(number, "its keys are not in order"));
            }
            self.last = Some(key.clone());
            return Ok(Some(Pair { key, value, is_bucket: flags & BUCKET != 0, page: number }));
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(*bytes[at..].first_chunk().expect("the length was checked"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("the length was checked"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("the length was checked"))
}

#[cfg(test)]
mod tests;
