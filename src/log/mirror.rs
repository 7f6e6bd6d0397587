//! A bucket in two regions: the stream of the primary, and a mirror of it in another JetStream domain or
//! account, which has the same sequences.
//!
//! The metadata of the two streams decide what may be done with them:
//!
//! | stream | setting `mirror` | metadata | may be written |
//! |---|---|---|---|
//! | primary | none | | yes |
//! | mirror | yes | [`MIRROR_KEY`] | no |
//! | promoted mirror | none | [`MIRROR_KEY`], [`PROMOTED_KEY`], [`ORIGIN_KEY`] | yes |
//! | fenced primary | none | [`FENCED_KEY`] | no: its one subject is that of the fence |
//!
//! A promotion fences the primary first if that can be reached. The fence takes the subjects of keys away
//! from the stream, so that JetStream refuses each record, also of a writer that has not heard of the fence.
//! The message of the fence has the last sequence. A primary that cannot be reached is fenced when it
//! returns: its instances ask the stream of the standby before they become the writer and while they write,
//! and those of the promoted mirror look for it.
//!
//! Each promotion adds one to [`PROMOTIONS_KEY`]. Of two streams that could be written the one with the
//! higher number is the primary, so an old primary never fences its successor.

use super::api::{Api, ApiError, StreamInfo};
use super::bucket::{Bucket, Facts, SetupError};
use super::connect::Endpoint;
use super::stream_settings::{CLUSTER_KEY, Deviations, FORMAT_KEY, wanted};
use crate::record::FORMAT;
use crate::types::Sequence;
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::time::Duration;
use thiserror::Error;

/// The metadata key with the random id of a stream that is or was a mirror. Its instances talk below subjects
/// with this id, since a leaf connection may carry those of the primary's instances.
pub(super) const MIRROR_KEY: &str = "jetway.mirror";
/// The metadata key with the time of a promotion.
const PROMOTED_KEY: &str = "jetway.promoted";
/// The metadata key with the API of the primary that a promoted mirror has replaced.
const ORIGIN_KEY: &str = "jetway.origin";
/// The metadata key with the number of promotions before a stream became what it is.
const PROMOTIONS_KEY: &str = "jetway.promotions";
/// The metadata key with the time and the place of the promotion that has fenced a primary.
const FENCED_KEY: &str = "jetway.fenced";
/// The metadata key with the first sequence of the primary, if that is not 1. A mirror cannot have the
/// setting.
const FIRST_KEY: &str = "jetway.first_seq";
/// The subject of a fenced stream below the prefix of its bucket. No key has it.
pub(super) const FENCE: &str = "=_.fence";
/// How long a promotion waits for the first answer of the primary.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// A mirror hears of its origin about once a second.
const CONTACT: Duration = Duration::from_secs(10);

/// The reason why nothing can be appended to a stream.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReadOnly {
    /// It is a mirror.
    #[error(
        "this is a read-only mirror of the bucket behind {origin}; write to the primary there, or make the mirror the primary \
         with jetway promote"
    )]
    Mirror {
        /// The API of its origin.
        origin: String,
    },
    /// Its mirror was promoted.
    #[error(
        "this bucket is fenced: its mirror was promoted {promotion}, and is the primary now; write there"
    )]
    Fenced {
        /// Time and place.
        promotion: String,
    },
}

impl ReadOnly {
    /// The reason why nothing can be appended to a stream, if there is one.
    pub fn of(info: &StreamInfo) -> Option<ReadOnly> {
        if let Some(origin) = origin_of(&info.config) {
            return Some(ReadOnly::Mirror { origin });
        }
        let promotion = info.config["metadata"][FENCED_KEY].as_str()?.to_owned();
        Some(ReadOnly::Fenced { promotion })
    }
}

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

/// The API of the origin of a mirror; `None` for any other stream.
fn origin_of(config: &Value) -> Option<String> {
    let mirror = config.get("mirror").filter(|mirror| !mirror.is_null())?;
    let api = mirror["external"]["api"].as_str().unwrap_or(super::rights::API_PREFIX);
    Some(api.to_owned())
}

fn has(config: &Value, key: &str) -> bool {
    config["metadata"][key].is_string()
}

/// The settings of a mirror of a bucket's stream, whose settings are `origin`.
fn wanted_mirror(bucket: &Bucket, replicas: Option<usize>, api: &str, origin: &Value) -> Value {
    let mut config = wanted(bucket, replicas, 0);
    if let Some(settings) = config.as_object_mut() {
        // JetStream refuses both for a mirror.
        settings.remove("subjects");
        settings.remove("duplicate_window");
    }
    config["mirror"] = json!({ "name": bucket.stream, "external": { "api": api } });
    config["metadata"] = metadata(origin);
    config
}

/// The metadata of a mirror: those of its origin that readers of the log need, and an id of its own.
fn metadata(origin: &Value) -> Value {
    let mut metadata = json!({
        FORMAT_KEY: FORMAT.to_string(),
        CLUSTER_KEY: origin["metadata"][CLUSTER_KEY],
        MIRROR_KEY: format!("{:016x}", rand::random::<u64>()),
        PROMOTIONS_KEY: promotions(origin).to_string(),
    });
    if let Some(first) = first_of(origin).filter(|first| *first > 1) {
        metadata[FIRST_KEY] = first.to_string().into();
    }
    metadata
}

/// The first sequence that a stream could ever have, if that is known not to be 1.
pub(super) fn first_of(config: &Value) -> Option<u64> {
    let of_mirror = || config["metadata"][FIRST_KEY].as_str()?.parse().ok();
    config["first_seq"].as_u64().or_else(of_mirror)
}

/// The number of promotions before a stream became what it is.
pub(super) fn promotions(config: &Value) -> u64 {
    let number = config["metadata"][PROMOTIONS_KEY].as_str().and_then(|number| number.parse().ok());
    number.unwrap_or_default()
}

/// The id of a stream that is or was a mirror.
pub(super) fn mirror_id(config: &Value) -> Option<u64> {
    u64::from_str_radix(config["metadata"][MIRROR_KEY].as_str()?, 16).ok()
}

/// The subjects that a primary must have: those of its keys, or that of its fence.
pub(super) fn subjects(bucket: &Bucket, config: &Value) -> Value {
    json!([format!("{}{}", bucket.prefix, if has(config, FENCED_KEY) { FENCE } else { ">" })])
}

/// Whether an answer shows that nobody is there who could answer.
fn is_unreachable(error: &ApiError) -> bool {
    !matches!(error, ApiError::Refused { .. } | ApiError::Denied(_) | ApiError::Malformed(..))
}

/// The settings of the primary's stream, for a new mirror.
async fn origin_settings(bucket: &Bucket, api: &Api, origin: &str) -> Result<Value, SetupError> {
    let stream = bucket.stream.clone();
    let info = api.below(origin).stream_info(&stream).await;
    let info = info.map_err(|source| SetupError::Origin {
        stream: stream.clone(),
        origin: origin.to_owned(),
        source,
    })?;
    let format = FORMAT.to_string();
    let is_primary = info.config["metadata"][FORMAT_KEY].as_str() == Some(&format)
        && Bucket::cluster_id(&info).is_some()
        && ReadOnly::of(&info).is_none();
    if is_primary {
        Ok(info.config)
    } else {
        Err(SetupError::NoPrimary { stream, origin: origin.to_owned() })
    }
}

/// The settings of a mirror that is to be made.
pub(super) async fn to_create(
    bucket: &Bucket,
    api: &Api,
    replicas: Option<usize>,
    origin: &str,
) -> Result<Value, SetupError> {
    let settings = origin_settings(bucket, api, origin).await?;
    Ok(wanted_mirror(bucket, replicas, origin, &settings))
}

/// Checks a mirror, and puts one right that others have made. Returns it; `None` if the stream is none.
///
/// # Errors
/// [`SetupError`].
pub(super) async fn take(
    bucket: &Bucket,
    api: &Api,
    endpoint: &Endpoint,
    info: &StreamInfo,
) -> Result<Option<StreamInfo>, SetupError> {
    let stream = bucket.stream.clone();
    let found = info.config.get("mirror").filter(|mirror| !mirror.is_null());
    let (mirror, asked) = match (found, &endpoint.mirror) {
        (Some(mirror), Some(asked)) => (mirror, asked),
        (None, None) => return Ok(None),
        (None, Some(_)) if has(&info.config, PROMOTED_KEY) => {
            tracing::info!(target: "jetway::log", stream, "the mirror was promoted, and mirror= in --endpoint has no effect any more");
            return Ok(None);
        }
        (None, Some(asked)) => return Err(SetupError::NoMirror { stream, asked: asked.clone() }),
        (Some(_), None) => {
            let origin = origin_of(&info.config).unwrap_or_default();
            return Err(SetupError::IsMirror { stream, origin });
        }
    };
    let mut plain = mirror.clone();
    if let Some(external) = plain["external"].as_object_mut() {
        external.remove("deliver");
    }
    let expected = json!({ "name": stream, "external": { "api": asked } });
    if plain != expected {
        let found = mirror.clone();
        return Err(SetupError::Unusable { stream, setting: "mirror", found, expected });
    }
    let mut wanted = wanted_mirror(bucket, endpoint.replicas, asked, &Value::Null);
    wanted["mirror"] = mirror.clone();
    let deviations = Deviations::of(&info.config, &wanted);
    if let Some(setting) = deviations.unusable {
        let (found, expected) = (info.config[setting].clone(), wanted[setting].clone());
        return Err(SetupError::Unusable { stream, setting, found, expected });
    }
    let mut config = info.config.clone();
    if !has(&config, MIRROR_KEY) {
        let origin = origin_settings(bucket, api, asked).await?;
        if let (Some(known), Some(new)) =
            (config["metadata"].as_object_mut(), metadata(&origin).as_object_mut())
        {
            known.append(new);
        }
    }
    for setting in deviations.repairs {
        config[setting] = wanted[setting].clone();
    }
    let mut taken = info.clone();
    if config != info.config {
        tracing::info!(target: "jetway::log", stream, origin = asked, "taking a mirror that others have made");
        let updated = api.call::<StreamInfo>(&format!("STREAM.UPDATE.{stream}"), &config).await;
        taken = updated.map_err(|source| SetupError::Api { stream, source })?;
    }
    Ok(Some(taken))
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

/// The origin of a mirror, as far as the mirror knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Messages that the origin had more when the last one came.
    pub messages: u64,
    /// The time since the origin was heard of; `None` if it never was since the start of the server.
    pub silence: Option<Duration>,
}

impl Lag {
    /// Whether the mirror hears of its origin.
    pub fn is_in_contact(&self) -> bool {
        self.silence.is_some_and(|silence| silence < CONTACT)
    }

    /// Whether the mirror has all that its origin has.
    pub fn is_level(&self) -> bool {
        self.messages == 0 && self.is_in_contact()
    }
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

/// A mirror that is to be promoted.
#[derive(Debug)]
pub(super) struct Candidate<'a> {
    pub(super) api: &'a Api,
    pub(super) bucket: &'a Bucket,
}

impl Candidate<'_> {
    pub(super) async fn info(&self) -> Result<StreamInfo, ApiError> {
        self.api.stream_info(&self.bucket.stream).await
    }

    /// Fences the primary behind `origin`, and returns the sequence of its last message; `None` if it cannot
    /// be reached, or has no such stream any more.
    pub(super) async fn fence_origin(
        &self,
        origin: &str,
        promotion: &str,
    ) -> Result<Option<Sequence>, FenceError> {
        let api = self.api.below(origin);
        // Nothing was changed there when this gives up.
        let there = tokio::time::timeout(ANSWER_TIMEOUT, api.stream_info(&self.bucket.stream));
        let Ok(there) = there.await else { return Ok(None) };
        let subject = format!("{origin}.{}{FENCE}", self.bucket.prefix);
        let fenced = match there {
            Ok(_) => {
                // Without the message of the fence the end is not known, and a fence alone stops the primary.
                api.try_publish(&subject).await.map_err(FenceError::Message)?;
                fence(&api, self.bucket, promotion).await
            }
            Err(error) => Err(error),
        };
        match fenced {
            Ok(()) => {}
            Err(error) if error.is_absent() || is_unreachable(&error) => return Ok(None),
            Err(error) => return Err(FenceError::Api(error)),
        }
        // It stands behind everything that was on its way when the subjects went.
        let stored = api.publish(subject).await.map_err(FenceError::Message)?;
        Ok(Some(Sequence(stored)))
    }

    /// The metadata of a mirror that no jetway has served yet; `None` for any other one. If the primary is
    /// lost, the mirror gets a cluster's id of its own. Fails if the primary is another program's.
    pub(super) async fn missing_metadata(
        &self,
        info: &StreamInfo,
        origin: &str,
    ) -> Result<Option<Value>, SetupError> {
        if has(&info.config, MIRROR_KEY) {
            return Ok(None);
        }
        let settings = origin_settings(self.bucket, self.api, origin);
        match tokio::time::timeout(ANSWER_TIMEOUT, settings).await {
            Ok(Ok(settings)) => Ok(Some(metadata(&settings))),
            Ok(Err(SetupError::Origin { .. })) | Err(_) => {
                let id = format!("{:016x}", rand::random::<u64>() | 1);
                Ok(Some(metadata(&json!({ "metadata": { CLUSTER_KEY: id } }))))
            }
            Ok(Err(error)) => Err(error),
        }
    }

    /// Makes the mirror a stream of its own, which takes records.
    pub(super) async fn promote(
        &self,
        info: StreamInfo,
        missing_metadata: Option<Value>,
        time: &str,
    ) -> Result<StreamInfo, ApiError> {
        let origin = origin_of(&info.config).unwrap_or_default();
        let mut config = info.config;
        if let (Some(known), Some(Value::Object(mut missing))) =
            (config["metadata"].as_object_mut(), missing_metadata)
        {
            known.append(&mut missing);
        }
        let promotions = promotions(&config) + 1;
        let wanted = wanted(self.bucket, None, 0);
        if let Some(settings) = config.as_object_mut() {
            settings.remove("mirror");
        }
        for setting in ["subjects", "duplicate_window"] {
            config[setting] = wanted[setting].clone();
        }
        config["metadata"][PROMOTED_KEY] = time.into();
        config["metadata"][ORIGIN_KEY] = origin.into();
        config["metadata"][PROMOTIONS_KEY] = promotions.to_string().into();
        self.api.call(&format!("STREAM.UPDATE.{}", self.bucket.stream), &config).await
    }
}

/// Whether a stream was promoted.
pub(super) fn is_promoted(info: &StreamInfo) -> bool {
    origin_of(&info.config).is_none() && has(&info.config, PROMOTED_KEY)
}
