//! Writes while a member of a cluster fails.
//!
//! A write begins every 10 ms, whether or not those before are answered: a call that the leader has taken
//! with it may be answered seconds later only, and must not hide that others are served meanwhile. Each write
//! begins at the next endpoint. One that fails is sent to the endpoint after that, as an application does it
//! with etcd's client, until it succeeds. Writes of the same value to the same key can be repeated without
//! harm. In the end every key must be there.

use crate::kv::{self, FLOOD_BYTES};
use crate::load::{Bench, Failure, Timing};
use crate::peer::{Fault, Installation, Peer};
use crate::sample::{Metric, Sample};
use etcd_client::{Client, KvClient};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Time from the begin of a write to the begin of the next one, and the shortest that a longest gap can be.
const INTERVAL: Duration = Duration::from_millis(10);

/// Time before a member fails.
const BEFORE: Duration = Duration::from_secs(2);

/// Time after its process is gone or goes on, at the least.
const AFTER: Duration = Duration::from_secs(3);

/// Writes that begin after the oldest one that has no answer. While there are more, the outage is not over.
const IN_FLIGHT: u64 = 100;

/// etcd's client waits this long once every endpoint has failed a call.
const BACK_OFF: Duration = Duration::from_millis(25);

/// A write that fails for longer ends the sample.
const TIMEOUT: Duration = Duration::from_mins(1);

/// A write that succeeded.
struct Write {
    number: u64,
    begin: Instant,
    end: Instant,
    failures: u64,
}

/// The member that fails.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Victim {
    /// The first one that calls itself leader.
    Leader,
    /// The first one that does not.
    Follower,
}

/// A failure of a member.
struct MemberLoss {
    member: usize,
    /// Members that called themselves leader.
    leaders: usize,
    /// The time of the signal.
    at: Instant,
    /// The time when its process was gone, or went on.
    over: Instant,
}

/// Starts a cluster below `dir`, lets a member fail and returns how long no write succeeded.
pub(crate) async fn run(
    installation: &Installation,
    dir: &Path,
    victim: Victim,
    fault: Fault,
) -> Result<Sample, Failure> {
    let mut peer = installation.start(dir).await?;
    let shown = fail_over(&mut peer, installation, victim, fault).await;
    let mut sample = peer.with_logs(shown)?;
    sample.durability.clone_from(&peer.durability);
    peer.stop().await?;
    Ok(sample)
}

async fn fail_over(
    peer: &mut Peer,
    installation: &Installation,
    victim: Victim,
    fault: Fault,
) -> Result<Sample, Failure> {
    let timing = Timing { warm_up: BEFORE, sample: AFTER };
    let mut bench = Bench::new(peer, installation.kind, 1, timing);
    let connections = bench.connect(bench.endpoints.len()).await?;
    let loss = OnceLock::new();
    let failed = async {
        tokio::time::sleep(timing.warm_up).await;
        let lost = fail(peer, &connections, victim, fault).await?;
        loss.set(lost).map_err(|_| "a member failed twice".into())
    };
    let is_over = || loss.get().is_some_and(|loss: &MemberLoss| loss.over.elapsed() >= timing.sample);
    let ((mut writes, last), ()) = tokio::try_join!(write_until(&connections, is_over), failed)?;
    let loss = loss.get().ok_or("no member failed")?;

    bench.endpoints.remove(loss.member);
    let there = kv::counted(&bench).await?;
    if there != writes.len() as u64 {
        return Err(format!("{} writes were answered, {there} are there", writes.len()).into());
    }
    writes.sort_by_key(|write| write.end);
    let (mut gap, mut gap_before) = (Duration::ZERO, Duration::ZERO);
    // After the last begin the writes become fewer, so that gaps are no longer the cluster's.
    for pair in writes.windows(2).filter(|pair| pair[1].end <= last) {
        let longest = if pair[1].end < loss.at { &mut gap_before } else { &mut gap };
        *longest = (*longest).max(pair[1].end - pair[0].end);
    }
    let after = || writes.iter().filter(|write| write.end >= loss.at);
    let slowest = after().map(|write| write.end - write.begin).max().unwrap_or_default();
    let failures: u64 = after().map(|write| write.failures).sum();
    let mut sample = Sample::default();
    sample.set(Metric::Gap, gap.as_secs_f64() * 1e3);
    sample.set(Metric::SlowestWrite, slowest.as_secs_f64() * 1e3);
    sample.note = format!(
        "the fault of n{} took {:.0} ms; {} called themselves leader; {failures} calls failed; the longest gap before \
         was {:.0} ms",
        loss.member + 1,
        (loss.over - loss.at).as_secs_f64() * 1e3,
        loss.leaders,
        gap_before.as_secs_f64() * 1e3
    );
    Ok(sample)
}

async fn fail(
    peer: &mut Peer,
    connections: &[Client],
    victim: Victim,
    fault: Fault,
) -> Result<MemberLoss, Failure> {
    let (mut leaders, mut followers) = (Vec::new(), Vec::new());
    for (member, connection) in connections.iter().enumerate() {
        let status = connection.maintenance_client().status().await?;
        let own = status.header().ok_or("an answer without a header")?.member_id();
        if status.leader() == own { &mut leaders } else { &mut followers }.push(member);
    }
    let member = match victim {
        Victim::Leader => *leaders.first().ok_or("no member calls itself leader")?,
        Victim::Follower => *followers.first().ok_or("all members call themselves leader")?,
    };
    let at = Instant::now();
    peer.fail_member(member, fault).await?;
    Ok(MemberLoss { member, leaders: leaders.len(), at, over: Instant::now() })
}

/// Writes until it `is_over` and no answer is overdue. Gives all writes, and when the last one began.
async fn write_until(
    connections: &[Client],
    is_over: impl Fn() -> bool,
) -> Result<(Vec<Write>, Instant), Failure> {
    let mut tick = tokio::time::interval(INTERVAL);
    let mut writing = JoinSet::new();
    let mut pending = BTreeSet::new();
    let mut writes: Vec<Write> = Vec::new();
    let mut last = Instant::now();
    for number in 0.. {
        tick.tick().await;
        while let Some(done) = writing.try_join_next() {
            let write: Write = done??;
            pending.remove(&write.number);
            writes.push(write);
        }
        let is_overdue = pending.first().is_some_and(|oldest| number - oldest > IN_FLIGHT);
        if is_over() && !is_overdue {
            break;
        }
        pending.insert(number);
        last = Instant::now();
        writing.spawn(write(connections.iter().map(Client::kv_client).collect(), number));
    }
    while let Some(done) = writing.join_next().await {
        writes.push(done??);
    }
    Ok((writes, last))
}

/// Writes one key, at one endpoint after the other.
async fn write(mut endpoints: Vec<KvClient>, number: u64) -> Result<Write, Failure> {
    let count = endpoints.len() as u64;
    let begin = Instant::now();
    let mut failures = 0;
    loop {
        let kv = &mut endpoints[((number + failures) % count) as usize];
        match kv.put(kv::key(number), kv::value(number, 0, FLOOD_BYTES), None).await {
            Ok(_) => return Ok(Write { number, begin, end: Instant::now(), failures }),
            Err(error) if begin.elapsed() > TIMEOUT => {
                return Err(format!("write {number} fails since {TIMEOUT:?}: {error}").into());
            }
            Err(_) => failures += 1,
        }
        if failures.is_multiple_of(count) {
            tokio::time::sleep(BACK_OFF).await;
        }
    }
}
