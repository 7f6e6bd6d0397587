//! Buckets of kine on the same NATS, which somebody may take for jetway's.

use super::api::{Api, ApiError, StreamInfo};
use super::bucket::Bucket;
use serde::Deserialize;
use serde_json::json;

/// The description by which kine marks its streams.
const DESCRIPTION: &str = "Holds kine key/values";

#[derive(Deserialize)]
struct Page {
    total: u64,
    #[serde(default)]
    streams: Option<Vec<StreamInfo>>,
}

/// Names the buckets of kine in a warning. `new` is a bucket that was just made, and so is empty.
pub(super) async fn warn(api: Api, new: Bucket) {
    match buckets(&api).await {
        Ok(found) => {
            for bucket in found {
                tracing::warn!(
                    target: "jetway::log",
                    "bucket {bucket} on this NATS is kine's; jetway does not read it, and its own bucket {} is new and empty. To \
                     bring the keys over, stop jetway, remove its stream, and run jetway migrate --from with the URL of a kine \
                     that serves {bucket}",
                    new.name
                );
            }
        }
        // The right to list streams is not one that jetway needs.
        Err(error) => {
            tracing::debug!(target: "jetway::log", %error, "streams cannot be listed; a bucket of kine is not noticed");
        }
    }
}

async fn buckets(api: &Api) -> Result<Vec<String>, ApiError> {
    let (mut found, mut seen) = (Vec::new(), 0);
    loop {
        let page: Page = api.call("STREAM.LIST", &json!({ "offset": seen })).await?;
        let streams = page.streams.unwrap_or_default();
        seen += streams.len() as u64;
        if streams.is_empty() {
            return Ok(found);
        }
        let of_kine = streams.iter().filter(|stream| stream.config["description"] == DESCRIPTION);
        let names = of_kine.filter_map(|stream| stream.config["name"].as_str()?.strip_prefix("KV_"));
        found.extend(names.map(str::to_owned));
        if seen >= page.total {
            return Ok(found);
        }
    }
}
