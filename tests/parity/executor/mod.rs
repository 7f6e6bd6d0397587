//! One of the two servers and what the session has seen of it.

mod kills;

use bytes::Bytes;
use jetway::proto::etcdserverpb as pb;
use prost::Message;
use tempfile::NamedTempFile;
use tonic::Status;

use crate::answer::{self, Answer, mask};
use crate::contend;
use crate::generate::{ROOT, Topics};
use crate::instances::Others;
use crate::ops::*;
use crate::requests::Marks;
use crate::session::{Setup, Step};
use crate::watchers::{STREAMS, Watchers};
use support::client::{Client, revision};
use support::eventually;
use support::lease::KeepAlive;
use support::nats::Nats;
use support::server::{Server, Target};

#[derive(Debug)]
pub struct Executor {
    pub server: Server,
    /// The other instances, one of which writes.
    others: Option<Others>,
    /// A nats-server that is not jetway's child.
    nats: Option<Nats>,
    was_nats_killed: bool,
    /// The key of the JWTs; the server reads it at each start.
    _secret: NamedTempFile,
    /// The harness's own client, root while auth is on.
    pub admin: Client,
    pub clients: Vec<Client>,
    keep_alives: Vec<KeepAlive>,
    pub watchers: Watchers,
    pub marks: Marks,
}

impl Executor {
    pub async fn start(target: Target, setup: Setup) -> Self {
        let mut args = Vec::new();
        if Topics::get().auth {
            // bcrypt at its cheapest: its cost is no behaviour.
            args.extend(["--bcrypt-cost".to_owned(), "4".to_owned()]);
        }
        let nats = match target {
            // Room for what etcd takes.
            Target::Jetway if setup.external || setup.instances => {
                Some(Nats::start_with("max_payload: 4MB").await)
            }
            _ => None,
        };
        if let Some(nats) = &nats {
            args.extend(["--endpoint".to_owned(), nats.endpoint()]);
        }
        let secret = NamedTempFile::new().unwrap();
        if setup.jwt {
            std::fs::write(secret.path(), "not secret at all, but long enough for HS256").unwrap();
            let token = format!("jwt,sign-method=HS256,priv-key={},ttl=10m", secret.path().display());
            args.extend(["--auth-token".to_owned(), token]);
        }
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let others = match target {
            Target::Jetway if setup.instances => Some(Others::start(&args).await),
            _ => None,
        };
        let server = Server::launch(target, &args).await;
        let admin = server.client().await;
        let clients = clients(&server).await;
        let keep_alives = clients.iter().map(KeepAlive::open).collect();
        let watchers = Watchers::open(&admin, &clients, 1).await;
        let marks = Marks { current: 1, floor: 0 };
        Self {
            server,
            others,
            nats,
            was_nats_killed: false,
            _secret: secret,
            admin,
            clients,
            keep_alives,
            watchers,
            marks,
        }
    }

    /// The servers' words about their own end, if that is why one does not answer.
    pub fn faults(&self) -> String {
        let others = self.others.iter().flat_map(Others::servers);
        std::iter::once(&self.server).chain(others).map(fault).collect()
    }

    /// Runs one operation. The error is a rule that this side broke by itself.
    pub async fn run(&mut self, step: &Step) -> Result<Answer, String> {
        if let Some(others) = &mut self.others {
            let is_due = matches!(step.op, Op::Kill(_) | Op::Writer(_) | Op::Expire(_));
            others.settle(&self.server, &self.admin, is_due).await;
        }
        let answer = self.ask(step.client, &step.op).await?;
        if let Some(revision) = answer.revision() {
            self.marks.current = self.marks.current.max(revision);
        }
        if let (Op::Compact(compact), Answer::Compact(_)) = (&step.op, &answer) {
            self.marks.floor = self.marks.resolve(compact.revision);
        }
        Ok(answer)
    }

    async fn ask(&mut self, n: usize, op: &Op) -> Result<Answer, String> {
        let client = &self.clients[n];
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
                    (Some(status), _) => Answer::error(&status),
                    (None, None) => return Err("a range stream without a message".into()),
                    (None, Some((last, _))) => {
                        let mut merged = last.clone();
                        merged.kvs = chunks.iter().flat_map(|chunk| chunk.kvs.clone()).collect();
                        mask(&mut merged.header);
                        Answer::Range(merged)
                    }
                }
            }
            Op::Put(put) => Answer::put(client.put_request(put.request()).await),
            Op::Big(big) => Answer::put(client.put_request(big.put()).await),
            Op::Delete(delete) => Answer::of(client.delete_range(delete.request()).await, |mut m| {
                mask(&mut m.header);
                Answer::Delete(m)
            }),
            Op::Txn(txn) => txn_of(client, txn.request(marks)).await,
            Op::Many(many) => txn_of(client, many.puts()).await,
            Op::Compact(compact) => {
                // A compaction may overtake a watcher that still reads history, on etcd too.
                self.watchers.leave_history(marks.current).await?;
                let request = pb::CompactionRequest {
                    revision: marks.resolve(compact.revision),
                    physical: compact.physical,
                };
                Answer::of(client.compact_request(request).await, |mut m| {
                    mask(&mut m.header);
                    Answer::Compact(m)
                })
            }
            // The server chooses the id.
            Op::Grant(Grant { id: 0, ttl }) => match client.lease_grant(0, *ttl).await {
                Err(status) => Answer::error(&status),
                Ok(mut granted) => {
                    let revoked = Answer::revoke(client.lease_revoke(granted.id).await);
                    granted.id = granted.id.signum();
                    Answer::Several(vec![Answer::grant(Ok(granted)), revoked])
                }
            },
            Op::Grant(grant) => Answer::grant(client.lease_grant(grant.id, grant.ttl).await),
            Op::Revoke(lease) => Answer::revoke(client.lease_revoke(lease.id).await),
            Op::TimeToLive(lease) => {
                Answer::of(client.lease_time_to_live(lease.id, lease.keys).await, |mut m| {
                    mask(&mut m.header);
                    m.keys.sort();
                    // The remaining time depends on the clock; that there is some does not.
                    m.ttl = m.ttl.signum();
                    Answer::TimeToLive(m)
                })
            }
            Op::KeepAlive(lease) => self.keep_alive(n, lease.id).await?,
            Op::Leases => Answer::of(client.leases().await, |mut m| {
                mask(&mut m.header);
                m.leases.sort_by_key(|lease| lease.id);
                Answer::Leases(m)
            }),
            Op::Expire(expire) => self.expire(n, expire).await?,
            Op::Watch(watch) => {
                let client = &self.clients[watch.stream];
                self.watchers.create(client, watch.stream, watch.request(marks), marks.floor).await?
            }
            Op::CancelWatch(watch) => {
                // Events that wait to be sent are dropped with the watcher, on etcd too.
                self.watchers.settle(marks.current).await?;
                self.watchers.cancel(watch.stream, watch.id).await?.map_or(Answer::Silence, Answer::Watch)
            }
            Op::Progress(watch) => {
                self.watchers.settle(marks.current).await?;
                let reported = self.watchers.progress(watch.stream, marks.current).await?;
                match reported {
                    // The response to a later request shows that the server has read this one.
                    None => {
                        let client = &self.clients[watch.stream];
                        let other = pb::WatchCreateRequest { key: "other".into(), ..Default::default() };
                        let answer = self.watchers.create(client, watch.stream, other, marks.floor).await?;
                        if let Answer::Watch(created) = &answer
                            && !created.canceled
                        {
                            self.watchers.cancel(watch.stream, created.watch_id).await?;
                        }
                        answer
                    }
                    Some(reported) if reported == marks.current => Answer::Silence,
                    Some(reported) => {
                        return Err(format!("progress {reported} at revision {}", marks.current));
                    }
                }
            }
            Op::WatchNothing(watch) => {
                self.watchers.nothing(watch.stream);
                Answer::Silence
            }
            Op::Reopen(watch) => {
                self.watchers.reopen(watch.stream, &self.clients[watch.stream]);
                Answer::Silence
            }
            Op::Settle => {
                // The store may have moved without an answer that shows it.
                self.catch_up().await?;
                self.watchers.settle(self.marks.current).await?;
                Answer::Silence
            }
            Op::HashKv(hash) => {
                let request = pb::HashKvRequest { revision: marks.resolve(hash.revision) };
                let answer = client.unary("/etcdserverpb.Maintenance/HashKV", request).await;
                Answer::of(answer, |mut m: pb::HashKvResponse| {
                    mask(&mut m.header);
                    Answer::HashKv(m)
                })
            }
            Op::Call(call) => {
                let method = answer::method(&call.method);
                let body = answer::encode(method.input(), &call.request);
                let path = format!("/{}", call.method);
                let answer = if method.is_server_streaming() {
                    client.raw_first(&path, body).await.map(Option::unwrap_or_default)
                } else {
                    client.raw(&path, body).await
                };
                let enabled = call.method == "etcdserverpb.Auth/AuthEnable" && answer.is_ok();
                let changed = call.method.starts_with("etcdserverpb.Auth/") && self.admin.has_token();
                if enabled || changed {
                    login(&mut self.admin).await?;
                }
                Answer::of(answer, |m| answer::message(method.output(), m))
            }
            Op::Raw(raw) => raw_answer(client, raw).await,
            Op::Login(login) => {
                let request =
                    pb::AuthenticateRequest { name: login.name.clone(), password: login.password.clone() };
                let answer = client.unary("/etcdserverpb.Auth/Authenticate", request).await;
                Answer::of(answer, |m: pb::AuthenticateResponse| {
                    self.clients[n].set_token(Some(&m.token));
                    self.keep_alives[n] = KeepAlive::open(&self.clients[n]);
                    Answer::Silence
                })
            }
            Op::Token(token) => {
                self.clients[n].set_token((!token.is_empty()).then_some(token));
                self.keep_alives[n] = KeepAlive::open(&self.clients[n]);
                Answer::Silence
            }
            Op::Contend(contend) => {
                let answers = contend::run(self, n, contend).await?;
                self.catch_up().await?;
                Answer::Several(answers)
            }
            Op::Kill(victim) => {
                self.catch_up().await?;
                self.watchers.settle(self.marks.current).await?;
                self.kill(*victim).await?;
                Answer::Silence
            }
            Op::Writer(change) => {
                self.catch_up().await?;
                self.watchers.settle(self.marks.current).await?;
                if let Some(others) = &mut self.others {
                    others.change(*change, &self.admin);
                }
                Answer::Silence
            }
        })
    }

    /// Learns the revision if no answer has it.
    async fn catch_up(&mut self) -> Result<(), String> {
        let answer = self.admin.get("\0").await.map_err(|status| status.to_string())?;
        self.marks.current = self.marks.current.max(revision(&answer.header));
        Ok(())
    }

    async fn keep_alive(&mut self, n: usize, id: i64) -> Result<Answer, String> {
        self.keep_alives[n].send(id);
        match self.keep_alives[n].message().await {
            Some(Ok(mut answer)) => {
                mask(&mut answer.header);
                Ok(Answer::KeepAlive(answer))
            }
            Some(Err(status)) => {
                self.keep_alives[n] = KeepAlive::open(&self.clients[n]);
                Ok(Answer::error(&status))
            }
            None => Err("a keep-alive stream ended with OK".into()),
        }
    }

    /// Nothing else happens meanwhile, so that the expiry has the same revision on both sides.
    async fn expire(&mut self, n: usize, expire: &Expire) -> Result<Answer, String> {
        let granted = self.clients[n].lease_grant(expire.id, expire.ttl).await;
        if granted.is_err() {
            return Ok(Answer::grant(granted));
        }
        let mut answers = vec![Answer::grant(granted)];
        for key in &expire.keys {
            let put = pb::PutRequest { key: key.into(), lease: expire.id, ..Default::default() };
            answers.push(Answer::put(self.clients[n].put_request(put).await));
        }
        if expire.renew {
            answers.push(self.keep_alive(n, expire.id).await?);
        }
        if let Some(victim) = expire.kill {
            self.catch_up().await?;
            self.watchers.settle(self.marks.current).await?;
            self.kill(victim).await?;
        }
        eventually("a lease to expire", async || {
            let left = self.admin.lease_time_to_live(expire.id, false).await.ok()?;
            // An overdue lease may also have a time of -1 left.
            (left.granted_ttl == 0).then_some(())
        })
        .await;
        self.catch_up().await?;
        Ok(Answer::Several(answers))
    }
}

/// The end of a server's log, if it ended with an error.
fn fault(server: &Server) -> String {
    let log = server.log();
    let fatal = |line: &str| ["panic", "fatal", "goroutine "].iter().any(|word| line.contains(word));
    let lines: Vec<_> = log.lines().collect();
    let first = lines.iter().rposition(|line| fatal(line)).map_or(lines.len(), |at| at.saturating_sub(5));
    lines[first..].iter().take(40).map(|line| format!("\n  {line}")).collect()
}

async fn clients(server: &Server) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..STREAMS {
        clients.push(server.client().await);
    }
    clients
}

/// Makes a client root, if auth is on.
async fn login(admin: &mut Client) -> Result<(), String> {
    let request = pb::AuthenticateRequest { name: ROOT.0.into(), password: ROOT.1.into() };
    let answer = admin.unary("/etcdserverpb.Auth/Authenticate", request).await;
    match answer {
        Ok(pb::AuthenticateResponse { token, .. }) => admin.set_token(Some(&token)),
        Err(status) if status.message() == "etcdserver: authentication is not enabled" => {
            admin.set_token(None)
        }
        Err(status) => return Err(format!("root cannot log in: {status}")),
    }
    Ok(())
}

async fn txn_of(client: &Client, request: pb::TxnRequest) -> Answer {
    let answer = client.txn(request.clone()).await;
    Answer::of(answer, |m| Answer::Txn(answer::txn(&request, m)))
}

/// A request that can be read is answered, and compared, as if it had been sent in the ordinary way.
async fn raw_answer(client: &Client, raw: &Raw) -> Answer {
    let body: Bytes = (&raw.bytes).into();
    let answer = client.raw(&format!("/{}", raw.method), body.clone()).await;
    let read = |status: prost::DecodeError| Status::data_loss(status.to_string());
    match raw.method.as_str() {
        "etcdserverpb.KV/Range" => {
            let request = pb::RangeRequest::decode(body).unwrap_or_default();
            let answer = answer.and_then(|m| pb::RangeResponse::decode(m).map_err(read));
            Answer::of(answer, |m| Answer::Range(answer::range(&request, m)))
        }
        "etcdserverpb.KV/Txn" => {
            let request = pb::TxnRequest::decode(body).unwrap_or_default();
            let answer = answer.and_then(|m| pb::TxnResponse::decode(m).map_err(read));
            Answer::of(answer, |m| Answer::Txn(answer::txn(&request, m)))
        }
        other => Answer::of(answer, |m| answer::message(answer::method(other).output(), m)),
    }
}
