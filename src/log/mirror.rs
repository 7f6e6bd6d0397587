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
//! | filled by a restore | none | [`FORMAT_KEY`] of an unfinished restore | by the restore alone |
//!
//! A promotion fences the primary first if that can be reached. The fence takes the subjects of keys away
//! from the stream, so that JetStream refuses each record, also of a writer that has not heard of the fence.
//! The message of the fence has the last sequence. A primary that cannot be reached is fenced when it
//! returns: its instances ask the stream of the standby before they become the writer and while they write,
//! and those of the promoted mirror look for it.
//!
//! Each promotion adds one to [`PROMOTIONS_KEY`]. Of two streams that could be written the one with the
//! higher number is the primary, so an old primary never fences its successor.

use super::api::{Api, StreamInfo};
use super::bucket::{Bucket, is_unfinished};
use super::connect::Endpoint;
use super::setup_error::SetupError;
use super::stream_settings::{CLUSTER_KEY, Deviations, FORMAT_KEY, wanted};
use crate::record::FORMAT;
use serde_json::{Value, json};
use std::time::Duration;
use thiserror::Error;

/// The metadata key with the random id of a stream that is or was a mirror. Its instances talk below subjects
/// with this id, since a leaf connection may carry those of the primary's instances.
pub(super) const MIRROR_KEY: &str = "jetway.mirror";
/// The metadata key with the time of a promotion.
pub(super) const PROMOTED_KEY: &str = "jetway.promoted";
/// The metadata key with the API of the primary that a promoted mirror has replaced.
pub(super) const ORIGIN_KEY: &str = "jetway.origin";
/// The metadata key with the number of promotions before a stream became what it is.
pub(super) const PROMOTIONS_KEY: &str = "jetway.promotions";
/// The metadata key with the time and the place of the promotion that has fenced a primary.
pub(super) const FENCED_KEY: &str = "jetway.fenced";
/// The metadata key with the first sequence of the primary, if that is not 1. A mirror cannot have the
/// setting.
const FIRST_KEY: &str = "jetway.first_seq";
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
    /// A restore or a migration fills it.
    #[error("this bucket is being filled, and is not whole yet")]
    Unfinished,
}

impl ReadOnly {
    /// The reason why nothing can be appended to a stream, if there is one.
    pub fn of(info: &StreamInfo) -> Option<ReadOnly> {
        if let Some(origin) = origin_of(&info.config) {
            return Some(ReadOnly::Mirror { origin });
        }
        if is_unfinished(&info.config) {
            return Some(ReadOnly::Unfinished);
        }
        let promotion = info.config["metadata"][FENCED_KEY].as_str()?.to_owned();
        Some(ReadOnly::Fenced { promotion })
    }
}

/// The API of the origin of a mirror; `None` for any other stream.
pub(super) fn origin_of(config: &Value) -> Option<String> {
    let mirror = config.get("mirror").filter(|mirror| !mirror.is_null())?;
    let api = mirror["external"]["api"].as_str().unwrap_or(super::rights::API_PREFIX);
    Some(api.to_owned())
}

pub(super) fn has(config: &Value, key: &str) -> bool {
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
pub(super) fn metadata(origin: &Value) -> Value {
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

/// The settings of the primary's stream, for a new mirror.
pub(super) async fn origin_settings(bucket: &Bucket, api: &Api, origin: &str) -> Result<Value, SetupError> {
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
