//! The time in which a child serves, up to the cause of its end.

use super::{Outputs, Plan};
use crate::disk;
use crate::nats_server::child::Child;
use std::convert::Infallible;
use std::time::Duration;

/// Interval of attempts to reserve room again after it was used.
const RESERVE_INTERVAL: Duration = Duration::from_secs(30);

/// Waits until a child that serves ends, or must be replaced since its store has refused a write. Returns the
/// cause.
pub(super) async fn watch_over(plan: &Plan<'_>, outputs: &Outputs, child: &mut Option<Child>) -> String {
    let child = child.as_mut().expect("a child that serves is in its place");
    let tail = child.tail().clone();
    tokio::select! {
        status = child.ended() => match tail.complaints() {
            none if none.is_empty() => status,
            complaints => format!("{status}; it complained: {complaints}"),
        },
        never = keep_reserve(plan) => match never {},
        error = store_writable_again(plan, outputs) => format!("stopped to make its store writable again: {error}"),
    }
}

/// Waits for a write error, and then until a restart may help: after a pause, and on a full disk once there
/// is room. Any other error needs no room, and leaves the reserve. Returns the error.
async fn store_writable_again(plan: &Plan<'_>, outputs: &Outputs) -> String {
    const POLL: Duration = Duration::from_millis(500);
    let mut write_error = outputs.write_error.subscribe();
    let error = match write_error.wait_for(Option::is_some).await {
        Ok(error) => error.clone().unwrap_or_default(),
        Err(_) => std::future::pending().await,
    };
    if !disk::is_full(&error) {
        tracing::error!(error, "nats-server cannot write its store; it is started again");
        tokio::time::sleep(POLL).await;
        return error;
    }
    tracing::error!(error, "nats-server cannot write its store; it will be restarted once there is room");
    plan.data_dir.spend_reserve();
    loop {
        tokio::time::sleep(POLL).await;
        if plan.data_dir.has_room() {
            return error;
        }
    }
}

/// Reserves room again once there is plenty.
async fn keep_reserve(plan: &Plan<'_>) -> Infallible {
    loop {
        tokio::time::sleep(RESERVE_INTERVAL).await;
        plan.data_dir.keep_reserve();
    }
}
