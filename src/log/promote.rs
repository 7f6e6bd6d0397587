//! Makes a mirror the primary.

use super::Denials;
use super::api::{Api, ApiError, StreamInfo};
use super::bucket::Bucket;
use super::connect::{ConnectError, Connection, Endpoint};
use super::fence::{FENCE, FenceError, fence, is_unreachable};
use super::mirror::{
    Lag, MIRROR_KEY, ORIGIN_KEY, PROMOTED_KEY, PROMOTIONS_KEY, ReadOnly, has, metadata, origin_of,
    origin_settings, promotions,
};
use super::rights::{API_PREFIX, Rights};
use super::setup_error::SetupError;
use super::stream_settings::{CLUSTER_KEY, wanted};
use crate::types::Sequence;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use thiserror::Error;

/// How long the mirror may take to get everything that a fenced primary holds.
const CATCH_UP_TIMEOUT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(10);

/// How long a promotion waits for the first answer of the primary.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// A mirror that is to be promoted.
#[derive(Debug)]
struct Candidate<'a> {
    api: &'a Api,
    bucket: &'a Bucket,
}

impl Candidate<'_> {
    async fn info(&self) -> Result<StreamInfo, ApiError> {
        self.api.stream_info(&self.bucket.stream).await
    }

    /// Fences the primary behind `origin`, and returns the sequence of its last message; `None` if it cannot
    /// be reached, or has no such stream any more.
    async fn fence_origin(&self, origin: &str, promotion: &str) -> Result<Option<Sequence>, FenceError> {
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
    async fn missing_metadata(&self, info: &StreamInfo, origin: &str) -> Result<Option<Value>, SetupError> {
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
    async fn promote(
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

/// A mirror was not promoted.
#[derive(Debug, Error)]
pub enum PromoteError {
    /// NATS.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// JetStream, on the side of the mirror.
    #[error("stream {stream}: {source}")]
    Api {
        /// The stream.
        stream: String,
        /// Why.
        source: ApiError,
    },
    /// The primary is another program's.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// It is not a mirror.
    #[error("stream {0} is not a mirror; --endpoint must name the NATS and the bucket of the mirror")]
    NoMirror(String),
    /// It is a primary that was fenced.
    #[error(
        "stream {0} was fenced by the promotion of its mirror, and cannot become the primary again; remove it, serve it with \
         mirror= in --endpoint, and promote it then"
    )]
    Fenced(String),
    /// Writes that the mirror does not have may be lost.
    #[error(
        "the primary behind {origin} cannot be reached: what it has written and the mirror does not have would be lost ({}), \
         and it would write until it hears of the promotion. Give --accept-data-loss if it is lost, or bring it back first",
        lag_text(lag.as_ref())
    )]
    Unreachable {
        /// The API of the primary.
        origin: String,
        /// The lag that the mirror knows.
        lag: Option<Lag>,
    },
    /// The primary answers, and does not let itself be fenced.
    #[error(
        "the primary behind {origin} answers and cannot be fenced, so nothing was promoted: {source}; the NATS user needs the \
         rights of `jetway nats-permissions` with mirror= in --endpoint, and an account needs these imports"
    )]
    NotFenced {
        /// The API of the primary.
        origin: String,
        /// Why.
        source: FenceError,
    },
    /// The mirror does not get what the primary holds.
    #[error(
        "the primary is fenced at sequence {end}, and the mirror has come to {here} only; nothing was promoted. Run the command \
         again, or with --accept-data-loss to leave the rest behind"
    )]
    Behind {
        /// The last sequence of the primary.
        end: Sequence,
        /// The last sequence of the mirror.
        here: Sequence,
    },
}

/// The words for a lag.
fn lag_text(lag: Option<&Lag>) -> String {
    match lag {
        Some(Lag { messages, silence: Some(silence) }) => format!(
            "it was last heard of {:.1} s ago, and was {messages} messages ahead then",
            silence.as_secs_f64()
        ),
        _ => "it was not heard of since the start of this NATS server".to_owned(),
    }
}

/// A step of a promotion.
#[derive(Clone, Copy, Debug)]
pub enum PromoteStep {
    /// The primary takes no records any more.
    Fenced(Sequence),
}

/// The outcome of a promotion.
#[derive(Clone, Debug)]
pub struct Promoted {
    /// The stream.
    pub stream: String,
    /// Its last sequence.
    pub end: Sequence,
    /// Whether the primary was fenced.
    pub is_fenced: bool,
    /// Whether the mirror was promoted before.
    pub is_repeated: bool,
    /// The lag that the mirror knew, in words.
    pub lag: String,
}

/// Makes the mirror of an endpoint the primary. Fences the primary and waits for its last message first, if
/// it can be reached. With `accepts_loss` it goes on where that is not possible.
///
/// # Errors
/// [`PromoteError`].
pub async fn promote(
    endpoint: &Endpoint,
    accepts_loss: bool,
    progress: &mut dyn FnMut(PromoteStep),
) -> Result<Promoted, PromoteError> {
    let endpoint = &Endpoint { denials: Denials::new(Rights::of(endpoint)), ..endpoint.clone() };
    let connection = Connection::open(endpoint, "jetway promote").await?;
    let api_prefix = endpoint.api_prefix.as_deref().unwrap_or(API_PREFIX);
    let api = Api::new(connection.client.clone(), api_prefix, endpoint.denials.clone());
    let bucket = Bucket::of(endpoint);
    let candidate = Candidate { api: &api, bucket: &bucket };
    let stream = bucket.stream.clone();
    let failed = |source| PromoteError::Api { stream: bucket.stream.clone(), source };
    let info = candidate.info().await.map_err(failed)?;
    let lag = info.lag();
    let promoted = |info: &StreamInfo, is_fenced, is_repeated| Promoted {
        stream: bucket.stream.clone(),
        end: info.last(),
        is_fenced,
        is_repeated,
        lag: lag_text(lag.as_ref()),
    };
    let origin = match ReadOnly::of(&info) {
        Some(ReadOnly::Mirror { origin }) => origin,
        Some(ReadOnly::Fenced { .. }) => return Err(PromoteError::Fenced(stream)),
        None if is_promoted(&info) => return Ok(promoted(&info, false, true)),
        None | Some(ReadOnly::Unfinished) => return Err(PromoteError::NoMirror(stream)),
    };
    let missing = candidate.missing_metadata(&info, &origin).await?;
    let time = info.ts.clone().unwrap_or_default();
    let place = format!("{time}, at {}", endpoint.servers.join(","));
    let fenced = match candidate.fence_origin(&origin, &place).await {
        Ok(end) => end,
        Err(source) => return Err(PromoteError::NotFenced { origin, source }),
    };
    let mut info = info;
    match fenced {
        Some(end) => {
            progress(PromoteStep::Fenced(end));
            let deadline = Instant::now() + CATCH_UP_TIMEOUT;
            while info.last() < end {
                if Instant::now() > deadline {
                    if accepts_loss {
                        break;
                    }
                    return Err(PromoteError::Behind { end, here: info.last() });
                }
                tokio::time::sleep(POLL).await;
                info = candidate.info().await.map_err(failed)?;
            }
        }
        None if !accepts_loss => return Err(PromoteError::Unreachable { origin, lag }),
        None => {}
    }
    let info = candidate.promote(info, missing, &time).await.map_err(failed)?;
    Ok(promoted(&info, fenced.is_some(), false))
}

/// Whether a stream was promoted.
fn is_promoted(info: &StreamInfo) -> bool {
    origin_of(&info.config).is_none() && has(&info.config, PROMOTED_KEY)
}
