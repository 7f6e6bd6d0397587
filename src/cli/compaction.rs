//! Compaction at intervals, without a request.

use super::flag_values::FlagValues;
use crate::duration::{self, DurationError};
use std::time::Duration;
use thiserror::Error;

/// How often etcd looks at the number of revisions.
const REVISION_INTERVAL: Duration = Duration::from_mins(5);

/// Flags of the automatic compaction that make no sense. The texts begin as etcd's.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum AutoCompactionError {
    #[error("undefined auto-compaction-mode: expected periodic or revision")]
    NoMode,
    #[error("unknown auto-compaction-mode {0:?}: expected periodic or revision")]
    Mode(String),
    #[error(
        "--auto-compaction-retention: error parsing CompactionRetention: time: invalid duration {retention:?} ({reason})"
    )]
    Retention { retention: String, reason: DurationError },
}

/// The part of the history that automatic compactions leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Revisions that are not older than this.
    Periodic(Duration),
    /// The newest revisions.
    Revision {
        /// So many of them.
        kept: i64,
        /// Time between two looks at the number of revisions.
        interval: Duration,
    },
}

/// The automatic compaction; `None` if there is none.
pub(super) fn settings(flags: &FlagValues) -> Result<Option<AutoCompaction>, AutoCompactionError> {
    let mode = match flags.text("auto-compaction-mode").unwrap_or("periodic") {
        "" => return Err(AutoCompactionError::NoMode),
        mode @ ("periodic" | "revision") => mode,
        mode => return Err(AutoCompactionError::Mode(mode.to_owned())),
    };
    let retention = flags.text_or_default("auto-compaction-retention");
    // A number without a unit is hours or revisions. A duration counts as revisions by its nanoseconds.
    let number = retention.strip_prefix('+').unwrap_or(retention);
    let (revisions, period) = match number.parse::<u32>() {
        Ok(number) => (i64::from(number), Duration::from_secs(u64::from(number) * 3600)),
        Err(_) => match number.parse::<i64>() {
            Ok(number) if number >= 0 && mode == "revision" => (number, Duration::MAX),
            _ => match duration::parse(retention) {
                Ok(period) => (i64::try_from(period.as_nanos()).unwrap_or(i64::MAX), period),
                Err(reason) => {
                    return Err(AutoCompactionError::Retention { retention: retention.to_owned(), reason });
                }
            },
        },
    };
    Ok(match mode {
        _ if revisions == 0 => None,
        "revision" => Some(AutoCompaction::Revision { kept: revisions, interval: REVISION_INTERVAL }),
        _ => Some(AutoCompaction::Periodic(period)),
    })
}
