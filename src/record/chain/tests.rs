use super::*;
use crate::core::{KeyVersion, VersionParts};
use crate::record::{Digest, EpochStart, Member, OperationId, Trim};
use crate::types::LeaseId;

pub(in crate::record) fn record(epoch: u64, index: u64, (place, count): (u32, u32), body: Body) -> Record {
    Record {
        epoch: Epoch(epoch),
        nonce: epoch * 10,
        index: LogIndex(index),
        revision: Revision(index as i64),
        place,
        count,
        operation: OperationId { instance: epoch, counter: index - u64::from(place) },
        body,
    }
}

pub(in crate::record) fn start(epoch: u64, index: u64) -> Record {
    let start = EpochStart {
        instance: epoch,
        format: crate::record::FORMAT,
        member: Member::default(),
        election_timeout_ms: 1000,
        quota_bytes: 0,
        digest: Digest(0),
    };
    record(epoch, index, (1, 1), Body::Epoch(Box::new(start)))
}

pub(in crate::record) fn put(epoch: u64, index: u64, batch: (u32, u32)) -> Record {
    let version = KeyVersion::new(&VersionParts {
        key: b"k",
        value: b"",
        create_revision: Revision(index as i64),
        mod_revision: Revision(index as i64),
        version: 1,
        lease: LeaseId::NONE,
        sequence: Sequence(index),
        place: batch.0,
    });
    record(epoch, index, batch, Body::Key(version))
}

/// Reads messages; returns the indexes of the valid records, the void sequences, and the last outcome.
pub(in crate::record) fn read(
    chain: &mut Chain,
    messages: &[(u64, Option<Record>)],
) -> (Vec<u64>, Vec<u64>, Outcome) {
    let (mut valid, mut void, mut last) = (Vec::new(), Vec::new(), Outcome::Nothing);
    for (sequence, record) in messages {
        last = chain.take(Sequence(*sequence), record.clone(), &mut valid, &mut void);
    }
    let indexes = valid.iter().map(|placed| placed.record.index.0).collect();
    (indexes, void.iter().map(|sequence| sequence.0).collect(), last)
}

#[test]
fn records_of_a_deposed_writer_are_void() {
    let single = (1, 1);
    let messages = [
        (1, Some(start(1, 1))),
        (2, Some(put(1, 2, single))),
        (3, Some(start(2, 3))),
        (4, Some(put(1, 3, single))),
        (5, Some(put(1, 4, single))),
        (6, Some(put(2, 4, single))),
    ];
    let (valid, void, _) = read(&mut Chain::new(None), &messages);
    assert_eq!((valid, void), (vec![1, 2, 3, 4], vec![4, 5]));
}

#[test]
fn records_of_a_later_epoch_tell_that_an_epoch_record_is_missing() {
    let single = (1, 1);
    // Sequence 3 held the epoch record of 2. Another program has removed it, and the trim record at 2. A copy
    // of that is left, which permits the hole.
    let messages = |next| {
        [(1, Some(start(1, 1))), (4, Some(trim(1, 2, 1, false))), (5, Some(put(1, 3, single))), (6, next)]
    };
    let point = TrimPoint { to: LogIndex(1), sequence: Sequence(4), is_lossy: false, loss: None };
    for later in [put(2, 5, single), start(3, 5), put(3, 6, single)] {
        let (valid, _, outcome) = read(&mut Chain::new(Some(point.clone())), &messages(Some(later)));
        assert_eq!((valid, outcome), (vec![1, 2, 3], Outcome::Missing));
    }
    // Without a hole behind the last epoch record it is of another program.
    let messages_without =
        [(1, Some(start(1, 1))), (2, Some(put(1, 2, single))), (3, Some(put(7, 5, single)))];
    let (_, _, outcome) = read(&mut Chain::new(None), &messages_without);
    assert_eq!(outcome, Outcome::Nothing);
    for other in [start(2, 3), start(1, 4), put(1, 7, single)] {
        let (_, _, outcome) = read(&mut Chain::new(Some(point.clone())), &messages(Some(other)));
        assert_eq!(outcome, Outcome::Nothing);
    }
}

#[test]
fn behind_an_older_trim_record_of_the_same_index_a_later_one_permits_holes() {
    let trim = |index| {
        let trim = Trim { to: 2, floor: None, digest: Digest(0), is_lossy: false, loss: None };
        Some(record(1, index, (1, 1), Body::Trim(Box::new(trim))))
    };
    // The void messages 4 and 5 went under the second trim record.
    let messages = [
        (1, Some(start(1, 1))),
        (2, Some(put(1, 2, (1, 1)))),
        (3, trim(3)),
        (6, trim(4)),
        (7, Some(put(1, 5, (1, 1)))),
    ];
    let point = TrimPoint { to: LogIndex(2), sequence: Sequence(6), is_lossy: false, loss: None };
    let mut chain = Chain::new(Some(point.clone()));
    let (valid, _, outcome) = read(&mut chain, &messages);
    assert_eq!((valid, outcome, chain.is_whole()), (vec![1, 2, 3, 4, 5], Outcome::Valid, true));
}

pub(in crate::record) fn trim(epoch: u64, index: u64, to: u64, is_lossy: bool) -> Record {
    let trim = Trim { to, floor: None, digest: Digest(0), is_lossy, loss: None };
    record(epoch, index, (1, 1), Body::Trim(Box::new(trim)))
}

#[test]
fn up_to_a_lossy_trim_record_epoch_records_may_be_missing_and_behind_it_none() {
    // The messages 3 and 4 are lost, and epoch 2 began with one of them.
    let messages = |is_lossy| {
        [
            (1, Some(start(1, 1))),
            (2, Some(put(1, 2, (1, 1)))),
            (5, Some(put(2, 5, (1, 1)))),
            (6, Some(start(3, 6))),
            (7, Some(trim(3, 7, 6, is_lossy))),
        ]
    };
    let point = |is_lossy| TrimPoint { to: LogIndex(6), sequence: Sequence(7), is_lossy, loss: None };
    let mut chain = Chain::new(Some(point(true)));
    assert_eq!(read(&mut chain, &messages(true)).0, [1, 2, 5, 6, 7]);
    assert!(chain.is_whole() && chain.is_lossy());
    assert_eq!(chain.holes(), [(Sequence(3), Sequence(4))]);
    assert_eq!(read(&mut chain, &[(8, Some(put(4, 8, (1, 1))))]), (vec![], vec![], Outcome::Nothing));
    assert_eq!(read(&mut chain, &[(10, Some(put(3, 8, (1, 1))))]).2, Outcome::Missing);
    let mut chain = Chain::new(Some(point(false)));
    assert_eq!(read(&mut chain, &messages(false)).0, [1, 2]);
    assert!(chain.has_lost_its_trim());
}

#[test]
fn the_rest_of_a_batch_of_members_counts_without_its_removed_beginning() {
    let member = |place| {
        Some(record(1, u64::from(place) + 1, (place, 3), Body::Member(place.into(), Some(Box::default()))))
    };
    // Sequence 2 held the first of three members, which a later record has superseded.
    let messages = [(1, Some(start(1, 1))), (3, member(2)), (4, member(3)), (5, Some(trim(1, 5, 4, false)))];
    let point = TrimPoint { to: LogIndex(4), sequence: Sequence(5), is_lossy: false, loss: None };
    let mut chain = Chain::new(Some(point.clone()));
    assert_eq!(read(&mut chain, &messages).0, [1, 3, 4, 5]);
    assert!(chain.is_whole());
}

#[test]
fn a_lossy_trim_record_makes_a_chain_lossy_for_good() {
    let mut chain = Chain::new(None);
    read(&mut chain, &[(1, Some(start(1, 1))), (2, Some(trim(1, 2, 1, true)))]);
    assert!(chain.is_lossy());
    read(&mut chain, &[(3, Some(trim(1, 3, 2, false)))]);
    assert!(chain.is_lossy(), "it is what the next trim record says");
}

#[test]
fn a_batch_without_its_middle_is_no_step_back() {
    // Message 3 is superseded.
    let batch = |index, place| Some(Record { revision: Revision(2), ..put(1, index, (place, 3)) });
    let messages =
        [(1, Some(start(1, 1))), (2, batch(2, 1)), (4, batch(4, 3)), (5, Some(trim(1, 5, 4, true)))];
    let point = TrimPoint { to: LogIndex(4), sequence: Sequence(5), is_lossy: true, loss: None };
    assert_eq!(read(&mut Chain::new(Some(point.clone())), &messages).0, [1, 2, 4, 5]);
}

#[test]
fn only_the_last_trim_record_ends_the_tolerance_for_holes() {
    // One of a lower index, two of the same; void messages went under each of them.
    let point = TrimPoint { to: LogIndex(3), sequence: Sequence(10), is_lossy: false, loss: None };
    let messages = [
        (1, Some(start(1, 1))),
        (3, Some(put(1, 2, (1, 1)))),
        (4, Some(trim(1, 3, 1, false))),
        (6, Some(trim(1, 4, 3, false))),
        (8, Some(put(1, 5, (1, 1)))),
    ];
    let mut chain = Chain::new(Some(point.clone()));
    assert_eq!(read(&mut chain, &messages).0, [1, 2, 3, 4, 5]);
    assert!(!chain.is_whole() && !chain.has_lost_its_trim());
    // Those up to the trim record's index are not told.
    let behind = [(5, 5), (7, 7)].map(|(from, to)| (Sequence(from), Sequence(to)));
    assert_eq!(chain.holes(), behind);
    assert_eq!(read(&mut chain, &[(10, Some(trim(1, 6, 3, false)))]).0, [6]);
    assert!(chain.is_whole());
    assert_eq!(read(&mut chain, &[(12, Some(put(1, 7, (1, 1))))]).2, Outcome::Missing);
    // Another message is at its place.
    let mut chain = Chain::new(Some(point.clone()));
    read(&mut chain, &messages);
    read(&mut chain, &[(10, Some(put(1, 6, (1, 1))))]);
    assert!(chain.has_lost_its_trim());
}

#[test]
fn a_batch_without_its_last_record_is_void_and_its_indexes_are_used_again() {
    let messages = [
        (1, Some(start(1, 1))),
        (2, Some(put(1, 2, (1, 3)))),
        (3, Some(put(1, 3, (2, 3)))),
        (4, Some(start(2, 2))),
        (5, Some(put(2, 3, (1, 2)))),
        (6, Some(put(2, 4, (2, 2)))),
    ];
    let (valid, void, _) = read(&mut Chain::new(None), &messages);
    assert_eq!((valid, void), (vec![1, 2, 3, 4], vec![2, 3]));
}

#[test]
fn a_foreign_message_changes_nothing_and_a_missing_one_stops_the_chain() {
    let mut chain = Chain::new(None);
    let messages = [(1, Some(start(1, 1))), (2, None), (3, Some(put(1, 2, (1, 1))))];
    let (valid, void, outcome) = read(&mut chain, &messages);
    assert_eq!((valid, void, outcome), (vec![1, 2], vec![2], Outcome::Valid));
    assert_eq!(read(&mut chain, &[(5, Some(put(1, 3, (1, 1))))]).2, Outcome::Missing);
    assert_eq!(read(&mut chain, &[(6, Some(put(1, 3, (1, 1))))]).2, Outcome::Missing);
}

#[test]
fn an_epoch_record_above_the_next_index_shows_a_loss() {
    let mut chain = Chain::new(None);
    assert_eq!(read(&mut chain, &[(1, Some(start(1, 1))), (2, Some(start(2, 3)))]).2, Outcome::Missing);
}

#[test]
fn records_may_be_missing_up_to_the_trim_record_only() {
    let trim = |index| {
        let trim = Trim { to: 6, floor: None, digest: Digest(0), is_lossy: false, loss: None };
        record(1, index, (1, 1), Body::Trim(Box::new(trim)))
    };
    let point = TrimPoint { to: LogIndex(6), sequence: Sequence(8), is_lossy: false, loss: None };
    let mut chain = Chain::new(Some(point.clone()));
    let messages = [
        (1, Some(start(1, 1))),
        (4, Some(put(1, 4, (1, 1)))),
        (7, Some(put(1, 7, (1, 1)))),
        (8, Some(trim(8))),
        (9, Some(put(1, 9, (1, 1)))),
    ];
    // The record of index 6 may be gone, that of index 7 may not.
    let (valid, _, outcome) = read(&mut chain, &messages);
    assert_eq!((valid, outcome, chain.is_whole()), (vec![1, 4, 7, 8, 9], Outcome::Valid, true));
    let mut chain = Chain::new(Some(point.clone()));
    let messages = [
        (1, Some(start(1, 1))),
        (4, Some(put(1, 4, (1, 1)))),
        (8, Some(trim(8))),
        (9, Some(put(1, 9, (1, 1)))),
    ];
    let (valid, ..) = read(&mut chain, &messages);
    assert_eq!((valid, chain.is_whole()), (vec![1, 4], false));
    let mut chain = Chain::new(Some(point.clone()));
    let messages = [
        (1, Some(start(1, 1))),
        (4, Some(put(1, 4, (1, 1)))),
        (6, Some(put(1, 6, (1, 1)))),
        (7, Some(put(1, 7, (1, 1)))),
        (8, Some(trim(8))),
        (9, Some(put(1, 9, (1, 1)))),
    ];
    let (valid, _, outcome) = read(&mut chain, &messages);
    assert_eq!((valid, outcome, chain.is_whole()), (vec![1, 4, 6, 7, 8, 9], Outcome::Valid, true));
    assert_eq!(read(&mut chain, &[(11, Some(put(1, 10, (1, 1))))]).2, Outcome::Missing);
}
