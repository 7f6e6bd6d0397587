//! The files of a stream in the embedded server's store.

use super::bucket::is_unfinished;
use super::setup_error::SetupError;
use serde_json::Value;
use std::path::PathBuf;

/// The embedded server's store.
#[derive(Clone, Debug)]
pub struct Store {
    /// Its directory.
    pub dir: PathBuf,
    /// Whether to go on without lost records.
    pub accepts_loss: bool,
}

impl Store {
    /// Whether it holds messages of a stream, but for the rest of a restore.
    pub fn is_used(&self, stream: &str) -> bool {
        let settings = std::fs::read(self.folder(stream).join("meta.inf"));
        let settings = settings.ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
        self.has_messages(stream) && !settings.is_some_and(|settings| is_unfinished(&settings))
    }

    fn folder(&self, stream: &str) -> PathBuf {
        self.dir.join("jetstream/$G/streams").join(stream)
    }

    fn has_messages(&self, stream: &str) -> bool {
        let blocks = std::fs::read_dir(self.folder(stream).join("msgs")).into_iter().flatten().flatten();
        blocks
            .filter(|block| block.path().extension().is_some_and(|of| of == "blk"))
            .any(|block| block.metadata().is_ok_and(|file| file.len() > 0))
    }

    /// Checks that there are no messages of a stream that the server does not load. Creating the stream again
    /// would take them in under another id, once more at each start, because nats-server leaves a damaged
    /// `meta.inf` as it is.
    pub(super) fn check_new(&self, stream: &str) -> Result<(), SetupError> {
        let folder = self.folder(stream);
        if !folder.exists() {
            return Ok(());
        }
        if self.has_messages(stream) && !self.accepts_loss {
            return Err(SetupError::Unloaded { stream: stream.to_owned(), folder });
        }
        for file in ["meta.inf", "meta.sum"].map(|name| folder.join(name)) {
            match std::fs::remove_file(&file) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(SetupError::Files { file, source });
                }
                _ => {}
            }
        }
        Ok(())
    }
}
