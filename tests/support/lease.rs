//! One LeaseKeepAlive call, driven message by message.

use jetway::proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use tonic::Status;

use crate::call::Call;
use crate::client::Client;

#[derive(Debug)]
pub struct KeepAlive(Call<LeaseKeepAliveRequest, LeaseKeepAliveResponse>);

impl KeepAlive {
    pub fn open(client: &Client) -> Self {
        Self(Call::open(client, "/etcdserverpb.Lease/LeaseKeepAlive"))
    }

    pub fn send(&self, id: i64) {
        self.0.send(LeaseKeepAliveRequest { id });
    }

    pub fn half_close(&mut self) {
        self.0.half_close();
    }

    /// The next answer or the status that ended the call; `None` after an end with OK.
    pub async fn message(&mut self) -> Option<Result<LeaseKeepAliveResponse, Status>> {
        self.0.message().await
    }

    /// Renews one lease and returns the answer.
    pub async fn renew(&mut self, id: i64) -> LeaseKeepAliveResponse {
        self.send(id);
        self.message().await.expect("the call goes on").expect("the call goes on")
    }
}
