//! Kills of the processes of a server.

use support::eventually;
use support::lease::KeepAlive;
use support::nats::Nats;
use support::server::{Target, alive, signal};

use super::{Executor, clients, login};
use crate::ops::Victim;
use crate::watchers::Watchers;

impl Executor {
    /// Kills and waits until the server serves again. All watch streams are new after that, and all that the
    /// server still has of its history is compared anew.
    pub(super) async fn kill(&mut self, victim: Victim) -> Result<(), String> {
        match (self.server.target(), victim) {
            (Target::Etcd, _) | (Target::Jetway, Victim::Server) => {
                self.server.kill9();
                self.server.restart().await;
            }
            (Target::Jetway, Victim::Nats) => self.kill_nats().await,
            (Target::Jetway, Victim::Both) => {
                let nats = self.server.find_nats_pid();
                self.server.kill9();
                if let Some(others) = &mut self.others {
                    others.kill9();
                }
                match (&mut self.nats, nats) {
                    (Some(nats), _) => {
                        end_nats(nats, &mut self.was_nats_killed).await;
                        nats.restart().await;
                    }
                    // It ends with jetway by itself, unless this is faster.
                    (None, Some(pid)) if alive(pid) => signal(pid, libc::SIGKILL),
                    (None, _) => {}
                }
                if let Some(others) = &mut self.others {
                    others.restart().await;
                }
                self.server.restart().await;
            }
        }
        if let Some(others) = &mut self.others {
            others.disturb();
        }
        let auth = self.admin.has_token();
        self.admin = self.server.client().await;
        if auth {
            login(&mut self.admin).await?;
        }
        // etcd forgets its simple tokens when it ends, so nobody keeps one.
        self.clients = clients(&self.server).await;
        self.keep_alives = self.clients.iter().map(KeepAlive::open).collect();
        self.watchers = Watchers::open(&self.admin, &self.clients, self.marks.floor.max(1)).await;
        self.watchers.settle(self.marks.current).await
    }

    async fn kill_nats(&mut self) {
        if let Some(nats) = &mut self.nats {
            end_nats(nats, &mut self.was_nats_killed).await;
            nats.restart().await;
        } else {
            let pid = self.server.nats_pid();
            signal(pid, libc::SIGKILL);
            eventually("another nats-server", async || {
                self.server.find_nats_pid().filter(|&next| next != pid)
            })
            .await;
        }
        eventually("jetway to serve again", async || self.admin.get("\0").await.ok()).await;
    }
}

/// Kills a nats-server of its own, once. Version 2.15.1 may bring removed messages back when it is killed
/// again, which jetway prevents for the embedded server alone; here it would refuse the data.
async fn end_nats(nats: &mut Nats, was_killed: &mut bool) {
    if std::mem::replace(was_killed, true) {
        nats.stop().await;
    } else {
        nats.kill9();
    }
}
