//! The instances of a jetway through which the session does not go. One of them writes, most of the time.

use std::time::Duration;

use jetway::proto::etcdserverpb as pb;
use tokio::task::JoinHandle;

use crate::ops::Change;
use support::client::{Answer, Client};
use support::server::{Server, Target, signal};
use support::{eventually, within};

/// Operations that run before the instances are as they were before a change of the writer.
const UNSETTLED: usize = 5;

#[derive(Debug)]
pub struct Others {
    servers: [Server; 2],
    /// Which of them writes.
    writer: usize,
    /// Members by their ids, in the order of the servers.
    members: [u64; 2],
    pending_change: Option<PendingChange>,
}

/// A change of the writer that has begun.
#[derive(Debug)]
struct PendingChange {
    change: Change,
    moving: Option<JoinHandle<Answer<pb::MoveLeaderResponse>>>,
    /// Operations that still run meanwhile.
    operations: usize,
}

impl Others {
    /// Starts them; the first one is the writer.
    pub async fn start(args: &[&str]) -> Self {
        let servers =
            [Server::launch(Target::Jetway, args).await, Server::launch(Target::Jetway, args).await];
        let mut members = [0; 2];
        for (server, member) in servers.iter().zip(&mut members) {
            (*member, _) = status(&server.client().await).await.expect("it serves");
        }
        Self { servers, writer: 0, members, pending_change: None }
    }

    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    pub fn kill9(&mut self) {
        self.servers.iter_mut().for_each(Server::kill9);
    }

    pub async fn restart(&mut self) {
        for server in &mut self.servers {
            server.restart().await;
        }
    }

    /// Anybody may write now.
    pub fn disturb(&mut self) {
        self.pending_change = Some(PendingChange { change: Change::Move, moving: None, operations: 0 });
    }

    /// Begins a change of the writer and waits for nothing.
    pub fn change(&mut self, change: Change, admin: &Client) {
        let writer = &mut self.servers[self.writer];
        let moving = match change {
            Change::Move => {
                let client = admin.at(&writer.endpoint());
                let target_id = self.members[1 - self.writer];
                Some(tokio::spawn(async move {
                    // The writer may not have heard yet of an instance that has just started.
                    within("the writer to move", async {
                        loop {
                            match move_leader(&client, target_id).await {
                                Err(status) if status.message() == "etcdserver: bad leader transferee" => {
                                    tokio::time::sleep(Duration::from_millis(20)).await;
                                }
                                answer => return answer,
                            }
                        }
                    })
                    .await
                }))
            }
            Change::Kill => {
                writer.kill9();
                None
            }
            Change::Stop => {
                signal(writer.pid(), libc::SIGTERM);
                None
            }
        };
        self.pending_change = Some(PendingChange { change, moving, operations: UNSETTLED });
    }

    /// Ends a change of the writer, at once or after a few operations: all instances run, and `session` does
    /// not write.
    pub async fn settle(&mut self, session: &Server, admin: &Client, at_once: bool) {
        let Some(changing) = &mut self.pending_change else { return };
        if !at_once && changing.operations > 0 {
            changing.operations -= 1;
            return;
        }
        let before = self.writer;
        match changing.change {
            Change::Move => {
                if let Some(moving) = changing.moving.take() {
                    let moved = moving.await.expect("the call is not aborted");
                    // On a machine that is slow enough the writer has changed by itself.
                    if moved.as_ref().is_err_and(|status| status.message() != "etcdserver: not leader") {
                        moved.expect("the writer moves");
                    }
                }
            }
            Change::Kill => self.servers[before].restart().await,
            Change::Stop => {
                let status = self.servers[before].ended().await;
                assert!(status.success(), "a stop ends with {status}\n{}", self.servers[before].log());
                self.servers[before].restart().await;
            }
        }
        self.pending_change = None;
        let client = admin.at(&session.endpoint());
        self.writer = eventually("a writer that the session does not go through", async || {
            let (own, leader) = status(&client).await.ok()?;
            if leader == own {
                // It may not have heard of the others yet.
                drop(move_leader(&client, self.members[before]).await);
            }
            self.members.iter().position(|member| *member == leader)
        })
        .await;
    }
}

/// The ids of the member that is asked, and of the one that writes.
async fn status(client: &Client) -> Answer<(u64, u64)> {
    let answer: pb::StatusResponse =
        client.unary("/etcdserverpb.Maintenance/Status", pb::StatusRequest {}).await?;
    Ok((answer.header.unwrap_or_default().member_id, answer.leader))
}

async fn move_leader(client: &Client, target_id: u64) -> Answer<pb::MoveLeaderResponse> {
    client.unary("/etcdserverpb.Maintenance/MoveLeader", pb::MoveLeaderRequest { target_id }).await
}
