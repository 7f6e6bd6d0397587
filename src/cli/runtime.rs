//! The runtime of a command that waits for others.

use thiserror::Error;

/// The system gives no thread or no socket.
#[derive(Debug, Error)]
#[error("the command cannot run: {0}")]
pub(super) struct RuntimeError(#[from] std::io::Error);

/// Runs the whole of a command.
///
/// # Errors
/// [`RuntimeError`].
pub(super) fn block_on<T>(command: impl Future<Output = T>) -> Result<T, RuntimeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(command))
}
