use super::*;
use crate::applier::Tables;
use crate::auth::AuthSettings;
use crate::core::Writer;
use crate::record::{EpochStart, FORMAT, Member, OperationId, Record};
use crate::types::{Epoch, Revision};

fn placed(at: u64, index: u64, body: Body) -> Placed {
    let record = Record {
        epoch: Epoch(1),
        nonce: 1,
        index: LogIndex(index),
        revision: Revision(1),
        place: 1,
        count: 1,
        operation: OperationId::default(),
        body,
    };
    Placed { sequence: Sequence(at), record }
}

async fn ask<T>(task: &mut Task, entry: impl FnOnce(oneshot::Sender<T>) -> Entry) -> T {
    let (sender, receiver) = oneshot::channel();
    assert!(task.take(entry(sender)).await.is_ok());
    receiver.await.expect("an answer")
}

fn task() -> (Task, mpsc::UnboundedReceiver<Job>) {
    let (writer, reader) = Writer::new();
    let (jobs, sent) = mpsc::unbounded_channel();
    let task = Task {
        entries: mpsc::channel(1).1,
        reports: mpsc::unbounded_channel().0,
        applier: Applier::new(writer, Tables::new(AuthSettings::default())),
        reader,
        published: Arc::default(),
        gate: None,
        mode: Arc::new(Mode::new(true, false)),
        read_only: tokio::sync::watch::channel(None).1,
        marks: None,
        jobs,
        counters: Counters::new(),
        has_freed: Arc::default(),
        state: Progress::default(),
    };
    (task, sent)
}

fn start(task: &mut Task) -> Body {
    Body::Epoch(Box::new(EpochStart {
        instance: 1,
        format: FORMAT,
        member: Member::default(),
        election_timeout_ms: 1000,
        quota_bytes: 0,
        digest: task.applier.digest(),
    }))
}

fn records(record: Placed, is_own: bool) -> Entry {
    let trim_to = LogIndex::NONE;
    Entry::Records { records: vec![record], waiters: Vec::new(), trim_to, is_whole: true, is_own }
}

#[tokio::test]
async fn removals_that_no_writer_has_ended_are_kept_through_other_trim_records() {
    let (mut task, mut jobs) = task();
    let start = start(&mut task);
    let loaded = Entry::Loaded { first: Sequence(1), holes: Vec::new() };
    for entry in [records(placed(1, 1, start), false), loaded] {
        assert!(task.take(entry).await.is_ok());
    }
    // Two writers stop in the middle of their removals, and this instance becomes the third.
    for (trim_at, void, index, is_own) in
        [(5, vec![2, 3, 4], 2, false), (7, vec![6], 3, false), (9, vec![8], 4, true)]
    {
        assert!(task.take(Entry::Void(void.into_iter().map(Sequence).collect())).await.is_ok());
        let (_, digest) = ask(&mut task, Entry::Digest).await;
        let trim = Body::Trim(Box::new(Trim { to: 1, floor: None, digest, is_lossy: false, loss: None }));
        assert!(task.take(records(placed(trim_at, index, trim), is_own)).await.is_ok());
        // The first writer has removed one message.
        let present = Present::all_but(Sequence(1), [Sequence(4)]);
        assert_eq!(ask(&mut task, |sender| Entry::Lacking(present, sender)).await.0, None);
    }
    let mut removed = Vec::new();
    while let Ok(job) = jobs.try_recv() {
        if let Job::Remove(mut removals, _) = job {
            while let Some(part) = removals.next_part(&mut Vec::new()) {
                removed.push(part.0.drain(..).map(|at| at.0).collect::<Vec<_>>());
            }
        }
    }
    assert_eq!(removed, [vec![3, 2], vec![6], vec![8]]);
}

#[tokio::test]
async fn a_trim_record_that_a_load_reads_permits_removals_afterwards() {
    let (mut task, _) = task();
    let start = start(&mut task);
    let begin = Entry::Begin { floor: None, mark: None, accepts_loss: false };
    for entry in [begin, records(placed(1, 1, start), false), Entry::Void(vec![Sequence(2)])] {
        assert!(task.take(entry).await.is_ok());
    }
    let (_, digest) = ask(&mut task, Entry::Digest).await;
    let trim = Trim { to: 1, floor: None, digest, is_lossy: false, loss: None };
    let loaded = Entry::Loaded { first: Sequence(1), holes: Vec::new() };
    for entry in [records(placed(3, 2, Body::Trim(Box::new(trim))), false), loaded] {
        assert!(task.take(entry).await.is_ok());
    }
    let present = |removed: Vec<Sequence>| Present::all_but(Sequence(1), removed);
    let (lacking, _) = ask(&mut task, |sender| Entry::Lacking(present(vec![Sequence(2)]), sender)).await;
    assert_eq!(lacking, None);
    let (lacking, _) = ask(&mut task, |sender| Entry::Lacking(present(vec![Sequence(3)]), sender)).await;
    assert_eq!(lacking, Some(Sequence(3)));
}

#[test]
fn a_hole_holds_its_ends_and_nothing_beside_them() {
    let holes = [(Sequence(3), Sequence(3)), (Sequence(7), Sequence(9))];
    let inside: Vec<u64> = (1..12).filter(|at| is_within(&holes, Sequence(*at))).collect();
    assert_eq!(inside, [3, 7, 8, 9]);
}
