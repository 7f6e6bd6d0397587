//! The fence of a primary whose mirror was promoted.

use super::api::{Api, ApiError, StreamInfo};
use super::bucket::{Bucket, Facts};
use super::mirror::{FENCED_KEY, ORIGIN_KEY, PROMOTED_KEY, ReadOnly, has, promotions};
use serde_json::{Value, json};
use std::cmp::Ordering;
use thiserror::Error;

/// The subject of a fenced stream below the prefix of its bucket. No key has it.
pub(super) const FENCE: &str = "=_.fence";

/// The standby of a primary does not let it write.
#[derive(Debug, Error)]
pub enum StandbyError {
    /// It is the primary now.
    #[error("the standby was promoted {0}, and is the primary now")]
    Promoted(String),
    /// It is another bucket.
    #[error(
        "the stream {stream} behind {standby} is no mirror of this bucket, and jetway promote has not made it the primary; this \
         instance writes once standby= in --endpoint names the domain of the mirror, or is left away"
    )]
    Other {
        /// The API of the standby.
        standby: String,
        /// The stream.
        stream: String,
    },
    /// Nobody knows whether it was promoted.
    #[error(
        "the standby behind {standby} does not answer, so that nobody knows whether it was promoted: {source}. This instance \
         writes once it answers; if the standby is lost for good, leave standby= in --endpoint away"
    )]
    Unreachable {
        /// The API of the standby.
        standby: String,
        /// Why.
        source: ApiError,
    },
}

/// A primary that answers was not fenced.
#[derive(Debug, Error)]
pub enum FenceError {
    /// The settings of its stream.
    #[error(transparent)]
    Api(ApiError),
    /// The message of the fence.
    #[error("the message of the fence does not come to its stream: {0}")]
    Message(ApiError),
}

/// The subjects that a primary must have: those of its keys, or that of its fence.
pub(super) fn subjects(bucket: &Bucket, config: &Value) -> Value {
    json!([format!("{}{}", bucket.prefix, if has(config, FENCED_KEY) { FENCE } else { ">" })])
}

/// Whether an answer shows that nobody is there who could answer.
pub(super) fn is_unreachable(error: &ApiError) -> bool {
    !matches!(error, ApiError::Refused { .. } | ApiError::Denied(_) | ApiError::Malformed(..))
}

/// Takes the subjects of keys away from a primary's stream. `api` is that of the primary.
///
/// # Errors
/// [`ApiError`].
pub(super) async fn fence(api: &Api, bucket: &Bucket, promotion: &str) -> Result<(), ApiError> {
    let info = api.stream_info(&bucket.stream).await?;
    if has(&info.config, FENCED_KEY) {
        return Ok(());
    }
    let mut config = info.config;
    config["metadata"][FENCED_KEY] = promotion.into();
    config["subjects"] = subjects(bucket, &config);
    api.call::<StreamInfo>(&format!("STREAM.UPDATE.{}", bucket.stream), &config).await.map(drop)
}

/// Fences the primary that a promoted mirror has replaced, unless it is fenced or is a mirror itself by now.
/// `info` is that of the promoted mirror. Returns whether nothing is left to do.
///
/// # Errors
/// [`ApiError`].
pub(super) async fn fence_replaced(
    api: &Api,
    bucket: &Bucket,
    info: &StreamInfo,
    place: &str,
) -> Result<bool, ApiError> {
    let metadata = &info.config["metadata"];
    let (Some(origin), Some(time)) = (metadata[ORIGIN_KEY].as_str(), metadata[PROMOTED_KEY].as_str()) else {
        return Ok(true);
    };
    let there = api.below(origin);
    match there.stream_info(&bucket.stream).await {
        Ok(replaced) => {
            let may_write = ReadOnly::of(&replaced).is_none()
                && Bucket::cluster_id(&replaced) == Bucket::cluster_id(info)
                && promotions(&replaced.config) < promotions(&info.config);
            if may_write {
                fence(&there, bucket, &format!("{time}, {place}")).await?;
            }
            Ok(true)
        }
        Err(error) if error.is_absent() => Ok(true),
        Err(error) if is_unreachable(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Asks whether the standby of a primary was promoted. `api` is that of the primary.
///
/// # Errors
/// [`StandbyError`].
pub(super) async fn check_standby(
    api: &Api,
    bucket: &Bucket,
    facts: Facts,
    standby: &str,
) -> Result<(), StandbyError> {
    match api.below(standby).stream_info(&bucket.stream).await {
        Ok(info) if ReadOnly::of(&info).is_some() => Ok(()),
        Ok(info) => {
            let is_same = Bucket::cluster_id(&info) == Some(facts.cluster_id);
            match promotions(&info.config).cmp(&facts.promotions) {
                // An old primary that was not fenced yet.
                Ordering::Less if is_same => Ok(()),
                Ordering::Greater if is_same => {
                    let time = info.config["metadata"][PROMOTED_KEY].as_str().unwrap_or_default();
                    Err(StandbyError::Promoted(format!("{time}, behind {standby}")))
                }
                _ => Err(StandbyError::Other { standby: standby.to_owned(), stream: bucket.stream.clone() }),
            }
        }
        // No stream of this name was promoted.
        Err(error) if error.is_absent() => Ok(()),
        Err(source) => Err(StandbyError::Unreachable { standby: standby.to_owned(), source }),
    }
}
