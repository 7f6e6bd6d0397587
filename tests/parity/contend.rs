//! Two clients want the same lock or leadership.
//!
//! Nobody else acts meanwhile, so a call that has not answered is known to wait as soon as its key is there
//! and an older one too.

use std::time::Duration;

use bytes::Bytes;
use jetway::proto::v3electionpb as election;
use jetway::proto::v3lockpb as lock;
use prost::Message;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::answer::{self, Answer};
use crate::executor::Executor;
use crate::ops::{Contend, Ending};
use support::client::{self, Client, all};
use support::{eventually, within};

type Response = client::Answer<Bytes>;

/// A call that waits for others, and the revision of its key once that is known.
struct PendingCall(JoinHandle<Response>, Option<i64>);

enum Outcome {
    Answered(Response),
    Waits(PendingCall),
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Contend {
    fn method(&self) -> &'static str {
        if self.election { "v3electionpb.Election/Campaign" } else { "v3lockpb.Lock/Lock" }
    }

    fn request(&self, lease: i64, value: &[u8]) -> Bytes {
        let name = (&self.name).into();
        if self.election {
            election::CampaignRequest { name, lease, value: Bytes::copy_from_slice(value) }
                .encode_to_vec()
                .into()
        } else {
            lock::LockRequest { name, lease }.encode_to_vec().into()
        }
    }

    fn prefix(&self) -> Vec<u8> {
        [&self.name.0[..], b"/"].concat()
    }

    fn key(&self, lease: i64) -> Bytes {
        // As Go prints a negative number.
        let sign = if lease < 0 { "-" } else { "" };
        [self.prefix(), format!("{sign}{:x}", lease.unsigned_abs()).into_bytes()].concat().into()
    }

    fn answer(&self, called: Response) -> Answer {
        Answer::of(called, |m| answer::message(answer::method(self.method()).output(), m))
    }
}

pub async fn run(executor: &mut Executor, n: usize, contend: &Contend) -> Result<Vec<Answer>, String> {
    let clients = [executor.clients[n].clone(), executor.clients[(n + 1) % executor.clients.len()].clone()];
    let admin = executor.admin.clone();
    let (leases, values) = (contend.leases, &contend.values);
    // Nobody waits while auth is on: the client inside etcd that waits for him watches in the name of whoever
    // waited first, whose token may be no good any more.
    let alone = admin.has_token();
    if alone && !admin.range(all(contend.prefix())).await.expect("the admin may read").kvs.is_empty() {
        return Ok(vec![Answer::Silence]);
    }
    let first = match call(&admin, &clients[0], contend, leases.0, &values.0.0).await {
        Outcome::Answered(answer) => answer,
        Outcome::Waits(waiting) => {
            give_up(&admin, waiting, contend, leases.0).await;
            return Ok(vec![Answer::Blocked]);
        }
    };
    let mut answers = vec![contend.answer(first.clone())];
    let Ok(first) = first else { return Ok(answers) };
    let leader = contend.election.then(|| {
        let answer = election::CampaignResponse::decode(first.clone()).unwrap_or_default();
        answer.leader
    });
    if let Some(leader) = &leader {
        // The leader proclaims a value, and an observer sees it.
        let request = election::ProclaimRequest { leader: leader.clone(), value: values.1.0.clone().into() };
        answers.push(named(&clients[0], "v3electionpb.Election/Proclaim", request).await);
        let request = election::LeaderRequest { name: (&contend.name).into() };
        answers.push(named(&clients[1], "v3electionpb.Election/Leader", request.clone()).await);
        if matches!(answers.last(), Some(Answer::Message(_))) {
            let method = answer::method("v3electionpb.Election/Observe");
            let seen =
                clients[1].raw_first("/v3electionpb.Election/Observe", request.encode_to_vec().into()).await;
            answers.push(Answer::of(seen, |m| answer::message(method.output(), m.unwrap_or_default())));
        }
    }
    let key = contend.key(leases.0);
    let release = async || match leader.clone() {
        Some(leader) => {
            named(&clients[0], "v3electionpb.Election/Resign", election::ResignRequest { leader }).await
        }
        None => named(&clients[0], "v3lockpb.Lock/Unlock", lock::UnlockRequest { key: key.clone() }).await,
    };
    if alone {
        answers.push(release().await);
        return Ok(answers);
    }
    let waiting = match call(&admin, &clients[1], contend, leases.1, &values.1.0).await {
        Outcome::Answered(answer) => {
            answers.push(contend.answer(answer));
            return Ok(answers);
        }
        Outcome::Waits(waiting) => waiting,
    };
    let released = match contend.ending {
        Ending::Release => release().await,
        Ending::Revoke => Answer::revoke(clients[0].lease_revoke(leases.0).await),
        Ending::Delete => delete(&clients[0], key.clone()).await,
        Ending::Cancel => {
            give_up(&admin, waiting, contend, leases.1).await;
            return Ok(answers);
        }
        Ending::Lose => {
            answers.push(delete(&clients[1], contend.key(leases.1)).await);
            release().await
        }
    };
    answers.push(released);
    match settle(&admin, waiting, contend, leases.1).await {
        Outcome::Answered(answer) => answers.push(contend.answer(answer)),
        Outcome::Waits(waiting) => {
            give_up(&admin, waiting, contend, leases.1).await;
            answers.push(Answer::Blocked);
        }
    }
    Ok(answers)
}

async fn call(admin: &Client, client: &Client, contend: &Contend, lease: i64, value: &[u8]) -> Outcome {
    let (client, request) = (client.clone(), contend.request(lease, value));
    let path = format!("/{}", contend.method());
    let call = tokio::spawn(async move { client.raw(&path, request).await });
    settle(admin, PendingCall(call, None), contend, lease).await
}

/// Waits until the call has answered or is known to wait.
async fn settle(admin: &Client, mut waiting: PendingCall, contend: &Contend, lease: i64) -> Outcome {
    let key = contend.key(lease);
    within("a call to answer or to wait", async {
        loop {
            let answered = tokio::time::timeout(Duration::from_millis(20), &mut waiting.0).await;
            if let Ok(answer) = answered {
                return Outcome::Answered(answer.expect("the call is not aborted"));
            }
            let keys = admin.range(all(contend.prefix())).await.expect("the admin may read").kvs;
            let own = keys.iter().find(|kv| kv.key == key).map(|kv| kv.create_revision);
            waiting.1 = own.or(waiting.1);
            if waiting.1.is_some_and(|own| keys.iter().any(|kv| kv.create_revision < own)) {
                return Outcome::Waits(waiting);
            }
        }
    })
    .await
}

/// Cancels the call, upon which the server removes its key.
async fn give_up(admin: &Client, waiting: PendingCall, contend: &Contend, lease: i64) {
    drop(waiting);
    let key = contend.key(lease);
    if admin.has_token() {
        // etcd removes the key without a user, so it stays with auth on. A delete by root is one revision
        // too.
        admin.delete(&key).await;
        return;
    }
    eventually("the key of a cancelled call to go", async || {
        let answer = admin.get(&key).await.expect("the admin may read");
        answer.kvs.is_empty().then_some(())
    })
    .await;
}

async fn named(client: &Client, method: &str, request: impl Message) -> Answer {
    let answer = client.raw(&format!("/{method}"), request.encode_to_vec().into()).await;
    Answer::of(answer, |m| answer::message(answer::method(method).output(), m))
}

async fn delete(client: &Client, key: Bytes) -> Answer {
    Answer::of(client.delete_range(client::delete(key)).await, |m| Answer::Message(json!(m.deleted)))
}
