//! One of the two servers and what the session has seen of it.

use crate::answer::{self, Answer, mask};
use crate::session::{Marks, Op};
use crate::support::client::{Client, revision};
use crate::support::lease::KeepAlive;
use crate::support::server::Server;
use crate::watchers::Watchers;

#[derive(Debug)]
pub struct Side {
    pub server: Server,
    client: Client,
    keep_alive: KeepAlive,
    pub watchers: Watchers,
    pub marks: Marks,
}

impl Side {
    pub async fn start(server: Server) -> Self {
        let client = server.client().await;
        let keep_alive = KeepAlive::open(&client);
        let watchers = Watchers::open(&client).await;
        Self { server, client, keep_alive, watchers, marks: Marks { current: 1, floor: 0 } }
    }

    /// Runs one operation. The error is a rule that this side broke by itself.
    pub async fn run(&mut self, op: &Op) -> Result<Answer, String> {
        let answer = self.ask(op).await?;
        if let Some(header) = answer.header() {
            self.marks.current = self.marks.current.max(header.revision);
        }
        if let (Op::Compact(compact), Answer::Compact(_)) = (op, &answer) {
            self.marks.floor = self.marks.resolve(compact.revision);
        }
        Ok(answer)
    }

    async fn ask(&mut self, op: &Op) -> Result<Answer, String> {
        let client = &self.client;
        let marks = self.marks;
        Ok(match op {
            Op::Range(range) => {
                let request = range.request(marks);
                let answer = client.range(request.clone()).await;
                Answer::of(answer, |m| Answer::Range(answer::range(&request, m)))
            }
            Op::RangeStream(range) => {
                let (chunks, ended) = client.range_stream(range.request(marks)).await;
                match (ended, chunks.split_last()) {
                    (Some(status), _) => Answer::Error(status.code(), status.message().to_owned()),
                    (None, None) => return Err("a range stream without a message".into()),
                    (None, Some((last, _))) => {
                        let mut merged = last.clone();
                        merged.kvs = chunks.iter().flat_map(|chunk| chunk.kvs.clone()).collect();
                        mask(&mut merged.header);
                        Answer::Range(merged)
                    }
                }
            }
            Op::Put(put) => Answer::of(client.put_request(put.request()).await, |mut m| {
                mask(&mut m.header);
                Answer::Put(m)
            }),
            Op::Delete(delete) => Answer::of(client.delete_range(delete.request()).await, |mut m| {
                mask(&mut m.header);
                Answer::Delete(m)
            }),
            Op::Txn(txn) => {
                let request = txn.request(marks);
                let answer = client.txn(request.clone()).await;
                Answer::of(answer, |m| Answer::Txn(answer::txn(&request, m)))
            }
            Op::Compact(compact) => {
                // A compaction may overtake a watcher that still reads history, on etcd too.
                self.watchers.leave_history(marks.current).await?;
                let request = jetway::proto::etcdserverpb::CompactionRequest {
                    revision: marks.resolve(compact.revision),
                    physical: compact.physical,
                };
                Answer::of(client.compact_request(request).await, |mut m| {
                    mask(&mut m.header);
                    Answer::Compact(m)
                })
            }
            Op::Grant(grant) => Answer::of(client.lease_grant(grant.id, grant.ttl).await, |mut m| {
                mask(&mut m.header);
                Answer::Grant(m)
            }),
            Op::Revoke(lease) => Answer::of(client.lease_revoke(lease.id).await, |mut m| {
                mask(&mut m.header);
                Answer::Revoke(m)
            }),
            Op::TimeToLive(lease) => {
                Answer::of(client.lease_time_to_live(lease.id, lease.keys).await, |mut m| {
                    mask(&mut m.header);
                    m.keys.sort();
                    // The remaining time depends on the clock; that there is some does not.
                    m.ttl = m.ttl.signum();
                    Answer::TimeToLive(m)
                })
            }
            Op::KeepAlive(lease) => {
                let mut answer = self.keep_alive.renew(lease.id).await;
                mask(&mut answer.header);
                Answer::KeepAlive(answer)
            }
            Op::Leases => Answer::of(client.leases().await, |mut m| {
                mask(&mut m.header);
                m.leases.sort_by_key(|lease| lease.id);
                Answer::Leases(m)
            }),
            Op::Watch(watch) => {
                Answer::Watch(self.watchers.create(watch.stream, watch.request(marks), marks.floor).await)
            }
            Op::CancelWatch(watch) => {
                // Events that wait to be sent are dropped with the watcher, on etcd too.
                self.watchers.settle(marks.current).await?;
                self.watchers.cancel(watch.stream, watch.id).await.map_or(Answer::Silence, Answer::Watch)
            }
            Op::Progress(watch) => {
                self.watchers.settle(marks.current).await?;
                let told = self.watchers.progress(watch.stream, marks.current).await;
                if told.is_some_and(|told| told != marks.current) {
                    return Err(format!("progress {told:?} at revision {}", marks.current));
                }
                Answer::Silence
            }
            Op::Settle => {
                // The store may have moved without an answer that tells.
                let current = revision(&client.get("\0").await.map_err(|status| status.to_string())?.header);
                self.marks.current = self.marks.current.max(current);
                self.watchers.settle(self.marks.current).await?;
                Answer::Silence
            }
        })
    }
}
