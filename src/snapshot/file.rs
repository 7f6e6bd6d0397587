//! Snapshots in files: written under another name, synced, checked and renamed.
//!
//! F1: a file has its name only when all of it is on the disk and its checksum is right.

use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Written at once.
const BUFFER: usize = 256 * 1024;
/// etcd's rule: a database is a multiple of so many bytes, and a checksum may be behind it.
const SECTOR: u64 = 512;

/// A file that cannot be written, or that is no whole snapshot.
#[derive(Debug, Error)]
pub(crate) enum FileError {
    #[error("{path}: {source}", path = .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("cannot keep the snapshot in {path}: {source}; name another folder with TMPDIR", path = .path.display())]
    Spool { path: PathBuf, source: io::Error },
    #[error("{path}: {size} bytes are no snapshot with its checksum: it is cut off", path = .path.display())]
    CutOff { path: PathBuf, size: u64 },
    #[error("{path}: the SHA-256 at its end does not fit its content: it is damaged", path = .path.display())]
    Checksum { path: PathBuf },
}

/// A file in the folder of temporary files, and the name that it had there. It vanishes when it is closed.
///
/// # Errors
/// [`FileError::Spool`].
pub(crate) fn unnamed() -> Result<(File, PathBuf), FileError> {
    let path = std::env::temp_dir().join(format!("jetway-snapshot-{:016x}", rand::random::<u64>()));
    let failed = |source| FileError::Spool { path: path.clone(), source };
    let opened = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
    let file = opened.map_err(failed)?;
    fs::remove_file(&path).map_err(failed)?;
    Ok((file, path))
}

/// The name of a file while it is written.
pub(crate) fn part_of(path: &Path) -> PathBuf {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    part.into()
}

/// A snapshot on its way into a file. It is removed where it is dropped before its end.
#[derive(Debug)]
pub(crate) struct PartFile {
    path: PathBuf,
    part: PathBuf,
    file: Option<BufWriter<File>>,
    size: u64,
}

impl PartFile {
    /// Opens the file that is to become `path`. One that was left behind by an earlier try is overwritten.
    ///
    /// # Errors
    /// [`FileError::Io`].
    pub(crate) fn create(path: &Path) -> Result<PartFile, FileError> {
        let part = part_of(path);
        let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part);
        let file = opened.map_err(|source| FileError::Io { path: part.clone(), source })?;
        let file = Some(BufWriter::with_capacity(BUFFER, file));
        Ok(PartFile { path: path.to_owned(), part, file, size: 0 })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// [`FileError::Io`].
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        if let Some(file) = &mut self.file {
            file.write_all(bytes).map_err(|source| FileError::Io { path: self.part.clone(), source })?;
        }
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Syncs and checks the file, and gives it its name. Returns its size.
    ///
    /// # Errors
    /// [`FileError`].
    pub(crate) fn finish(self) -> Result<u64, FileError> {
        self.finish_if(|_, _| Ok(()))
    }

    /// The same, if `check` accepts the file too. It gets the name and the size of the database in it.
    ///
    /// # Errors
    /// [`FileError`], and the error of `check`.
    pub(crate) fn finish_if<E: From<FileError>>(
        mut self,
        check: impl FnOnce(&Path, u64) -> Result<(), E>,
    ) -> Result<u64, E> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| FileError::Io { path, source }
        };
        if let Some(file) = self.file.take() {
            let file = file.into_inner().map_err(|error| failed(&self.part)(error.into_error()))?;
            file.sync_all().map_err(failed(&self.part))?;
        }
        // A server sends the checksum last.
        let size = checked_size(&self.part)?;
        if size == 0 || size == self.size {
            return Err(FileError::CutOff { path: self.part.clone(), size: self.size }.into());
        }
        check(&self.part, size)?;
        fs::rename(&self.part, &self.path).map_err(failed(&self.path))?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder))?;
        Ok(self.size)
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        // After the end there is no such file. If the removal fails, the name shows that it is no snapshot.
        fs::remove_file(&self.part).ok();
    }
}

fn checked_size(path: &Path) -> Result<u64, FileError> {
    let mut file = File::open(path).map_err(|source| FileError::Io { path: path.to_owned(), source })?;
    checked_size_of(&mut file, path)
}

/// The size of the database in an open file, of which the checksum is compared if there is one. `path` is the
/// name of the file in errors.
///
/// # Errors
/// [`FileError`].
pub(crate) fn checked_size_of(file: &mut File, path: &Path) -> Result<u64, FileError> {
    let failed = |source| FileError::Io { path: path.to_owned(), source };
    file.rewind().map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if size % SECTOR != SHA256_OUTPUT_LEN as u64 {
        return Ok(size);
    }
    let size = size - SHA256_OUTPUT_LEN as u64;
    let mut sum = Context::new(&SHA256);
    let mut left = size;
    let mut buffer = vec![0; BUFFER];
    while left > 0 {
        let length = left.min(BUFFER as u64) as usize;
        file.read_exact(&mut buffer[..length]).map_err(failed)?;
        sum.update(&buffer[..length]);
        left -= length as u64;
    }
    let mut expected = [0; SHA256_OUTPUT_LEN];
    file.read_exact(&mut expected).map_err(failed)?;
    if sum.finish().as_ref() != expected {
        return Err(FileError::Checksum { path: path.to_owned() });
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(path: &Path, content: &[u8], checksum: &[u8]) -> Result<u64, FileError> {
        let mut file = PartFile::create(path)?;
        content.chunks(1000).try_for_each(|chunk| file.write(chunk))?;
        file.write(checksum)?;
        file.finish()
    }

    #[test]
    fn a_file_gets_its_name_with_the_right_checksum_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.db");
        let content = vec![7; 600_064];
        let checksum = ring::digest::digest(&SHA256, &content);
        let of_nothing = ring::digest::digest(&SHA256, &[]);
        let mut damaged = content.clone();
        damaged[300_000] = 8;
        let is_there = || fs::read_dir(folder.path()).expect("a folder").count() > 0;
        assert!(matches!(saved(&path, &damaged, checksum.as_ref()), Err(FileError::Checksum { .. })));
        assert!(!is_there());
        for (content, checksum) in [
            (&content[..], &[][..]),
            (&content[512..], &checksum.as_ref()[1..]),
            (&[], of_nothing.as_ref()),
            (&[], &[]),
        ] {
            assert!(matches!(saved(&path, content, checksum), Err(FileError::CutOff { .. })));
            assert!(!is_there());
        }
        let zeros = content.len() - 512;
        assert!(matches!(
            saved(&path, &content[..zeros], checksum.as_ref()),
            Err(FileError::Checksum { .. })
        ));
        assert_eq!(saved(&path, &content, checksum.as_ref()).expect("a snapshot"), 600_096);
        assert!(path.exists() && !part_of(&path).exists());
    }
}
