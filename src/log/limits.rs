//! Limits of a NATS account and of a stream that are narrower than the settings of jetway.

use super::api::{AccountInfo, ApiError, StreamInfo};
use super::bucket::Bucket;
use crate::disk;

/// Consumers that an instance has at a time: that of the log, and that of the epochs.
const CONSUMERS: i64 = 2;

/// The settings of jetway that limits are compared with.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// Bytes of the quota; negative for no limit.
    pub quota: i64,
    /// The largest write request.
    pub message_bytes: usize,
}

impl Demand {
    /// The size of a stream that the quota fills before JetStream refuses anything; `None` without a quota.
    pub(super) fn max_bytes(self) -> Option<i64> {
        (self.quota > 0).then(|| self.quota.saturating_add(disk::headroom(u64::MAX) as i64))
    }
}

/// Sentences about the limits that bind before jetway's own.
pub(super) fn binding(
    info: &StreamInfo,
    account: Option<&AccountInfo>,
    max_payload: usize,
    demand: Demand,
) -> Vec<String> {
    let mut warnings = Vec::new();
    if max_payload < demand.message_bytes {
        warnings.push(format!(
            "nats-server takes messages of at most {max_payload} bytes (max_payload), and --max-request-bytes asks for {}: \
             larger values are refused",
            demand.message_bytes
        ));
    }
    let is_below_quota = |limit: i64| limit > 0 && (demand.quota < 0 || limit < demand.quota);
    let of_stream = info.config["max_bytes"].as_i64().unwrap_or(-1);
    if is_below_quota(of_stream) {
        warnings.push(format!(
            "the stream has max_bytes = {of_stream}, which is less than --quota-backend-bytes: the NOSPACE alarm comes \
             before it is full"
        ));
    }
    let replicas = info.config["num_replicas"].as_i64().unwrap_or(1).max(1);
    for (_, limit) in account.into_iter().flat_map(AccountInfo::storage) {
        if is_below_quota(limit / replicas) {
            warnings.push(format!(
                "the NATS account may store {limit} bytes in files, for {replicas} replicas, which is less than \
                 --quota-backend-bytes: the NOSPACE alarm comes before they are used up"
            ));
        }
    }
    let free = account.and_then(AccountInfo::free_consumers);
    let of_stream = info.config["max_consumers"].as_i64().filter(|limit| *limit > 0);
    for (limit, place) in [(free, "NATS account"), (of_stream, "stream")] {
        if let Some(limit) = limit.filter(|limit| *limit < CONSUMERS) {
            warnings.push(format!(
                "the {place} has room for {limit} more consumers (max_consumers), and each instance needs {CONSUMERS}"
            ));
        }
    }
    warnings
}

/// The way out where JetStream refuses to make a stream; `None` if the refusal has no known one.
pub(super) fn remedy(refusal: &ApiError, bucket: &Bucket, demand: Demand) -> Option<String> {
    let Bucket { stream, prefix, .. } = bucket;
    Some(match refusal.err_code()? {
        10027 => "the NATS account may have no more streams: raise its max_streams, or remove a stream".to_owned(),
        10002 | 10023 | 10047 => format!(
            "there is no room for it: raise max_file of the NATS account (nsc edit account --js-disk-storage), or \
             max_file_store of the servers{}",
            smaller_quota(demand)
        ),
        ApiError::MAX_BYTES_REQUIRED | 10122 => format!(
            "the NATS account limits the size of each stream: make the stream beforehand, and jetway takes it while it is \
             unused (nats stream add {stream} --subjects '{prefix}>' --max-bytes SIZE --defaults){}",
            smaller_quota(demand)
        ),
        10120 => "the NATS account has no JetStream limits for this number of replicas: add a tier (nsc edit account \
                  --js-tier), or give another replicas= in --endpoint"
            .to_owned(),
        10005 | 10074 => "each replica needs a server of its own with JetStream in one NATS cluster: give a smaller replicas= \
                          in --endpoint, or add servers"
            .to_owned(),
        _ => return None,
    })
}

/// The way out by the quota, where the stream's size follows from it.
fn smaller_quota(demand: Demand) -> String {
    match demand.max_bytes() {
        Some(bytes) => format!(
            ". If the account wants a size for each stream (max_bytes_required), jetway asks for {bytes} bytes, which are \
             --quota-backend-bytes and room for deletes: give a smaller --quota-backend-bytes"
        ),
        None => ", or give --quota-backend-bytes, from which the size follows".to_owned(),
    }
}
