use super::*;
use crate::record::chain::tests::{put, read, record, start, trim};
use crate::record::{Chain, Outcome, TrimPoint};

const SINGLE: (u32, u32) = (1, 1);

type Messages = Vec<(u64, Option<Record>)>;

#[expect(clippy::unnecessary_wraps, reason = "a foreign message has none")]
fn at(record: Record, revision: i64) -> Option<Record> {
    Some(Record { revision: Revision(revision), ..record })
}

fn accepting() -> Chain {
    Chain::accepting(None, Beginnings::default())
}

/// Reads from the start until nothing that was taken is refuted, as the node does.
fn read_again(messages: &Messages) -> (Chain, Vec<u64>, usize) {
    let mut chain = accepting();
    for loads in 1.. {
        let (valid, _, outcome) = read(&mut chain, messages);
        if outcome != Outcome::Missing {
            return (chain, valid, loads);
        }
        chain = Chain::accepting(None, chain.beginnings());
    }
    unreachable!("the loop ends")
}

/// A foreign message took sequence 3, so records 4 to 8 of epoch 1 were void, and epoch 2 began with index 3.
/// Message 3 is lost, so that 4 to 8 look valid.
fn void_records() -> Messages {
    let floor = |epoch, index| record(epoch, index, SINGLE, Body::Floor(Revision(2)));
    vec![
        (1, at(start(1, 1), 1)),
        (2, at(put(1, 2, SINGLE), 2)),
        (4, at(put(1, 4, SINGLE), 4)),
        (6, at(floor(1, 6), 5)),
        (7, at(put(1, 7, (1, 2)), 6)),
        (8, at(put(1, 8, (2, 2)), 6)),
        (9, at(start(2, 3), 2)),
        (10, at(put(2, 4, SINGLE), 3)),
        (11, at(put(2, 5, (1, 2)), 4)),
        (12, at(put(2, 6, (2, 2)), 4)),
        (13, at(start(3, 7), 4)),
    ]
}

#[test]
fn a_message_of_the_next_writer_refutes_records_that_a_loss_makes_look_valid() {
    let (mut chain, valid, loads) = read_again(&void_records());
    assert_eq!((valid, loads), (vec![1, 2, 3, 4, 5, 6, 7], 2));
    chain.settle(None);
    let loss = AcceptedLoss { at: 13, void: vec![(3, 8)] };
    assert_eq!((chain.loss(), chain.is_loss_unrecorded()), (Some(&loss), true));
    let mut trim = trim(3, 8, 7, true);
    let Body::Trim(body) = &mut trim.body else { unreachable!("it is one") };
    body.loss = Some(loss);
    assert_eq!(read(&mut chain, &[(14, at(trim, 4))]).0, [8]);
    assert!(!chain.is_loss_unrecorded());
}

#[test]
fn without_the_next_epoch_record_the_first_message_behind_it_refutes_them() {
    // One of the records 3 and 4 was the epoch record, so that index 4 and its revision are not certain.
    let mut messages = void_records();
    messages.retain(|(at, _)| ![9, 10].contains(at));
    assert_eq!(read_again(&messages).1, [1, 2, 5, 6, 7]);
    // A barrier names the last index.
    let barrier = at(record(2, 3, SINGLE, Body::Barrier), 2);
    let mut messages = void_records();
    messages.retain(|(at, _)| *at < 9);
    messages.push((9, barrier));
    let (chain, valid, _) = read_again(&messages);
    assert_eq!((valid, chain.next_epoch()), (vec![1, 2], Epoch(3)));
}

#[test]
fn an_epoch_record_without_a_message_of_its_writer_refutes_nothing() {
    // A candidate that had not read message 3 was late.
    let messages = vec![
        (1, Some(start(1, 1))),
        (2, Some(put(1, 2, SINGLE))),
        (4, Some(put(1, 4, SINGLE))),
        (5, Some(start(2, 3))),
    ];
    assert_eq!(read_again(&messages).1, [1, 2, 4]);
    // The epoch's writer had another nonce, so that its number tells.
    let other = |record| Some(Record { nonce: 99, ..record });
    let messages = vec![
        (1, Some(start(1, 1))),
        (2, Some(put(1, 2, SINGLE))),
        (4, Some(start(2, 4))),
        (5, other(start(2, 5))),
        (6, other(put(2, 6, SINGLE))),
    ];
    assert_eq!(read_again(&messages).1, [1, 2, 5, 6]);
}

#[test]
fn a_torn_batch_does_not_count_behind_a_message_of_the_next_writer() {
    // Message 3 was the epoch record of the second writer.
    let write = |epoch, index, batch| at(put(epoch, index, batch), 2);
    let messages = vec![(1, Some(start(1, 1))), (2, write(1, 2, (1, 2))), (4, write(2, 3, SINGLE))];
    assert_eq!(read_again(&messages).1, [1, 3]);
    // It may be the same call, which the second writer carries out.
    let again = write(2, 3, SINGLE).map(|record| Record { operation: put(1, 2, (1, 2)).operation, ..record });
    let messages = vec![messages[0].clone(), messages[1].clone(), (4, again)];
    assert_eq!(read_again(&messages).1, [1, 3]);
    // One whose last record is lost counts.
    let messages = vec![messages[0].clone(), messages[1].clone(), (5, at(put(2, 5, SINGLE), 3))];
    assert_eq!(read_again(&messages).1, [1, 2, 5]);
}

#[test]
fn members_share_the_revision_of_the_records_before_them() {
    let member = |place| at(record(2, 4 + u64::from(place), (place, 2), Body::Member(1, None)), 2);
    let messages = vec![(1, Some(start(1, 1))), (2, at(put(1, 2, SINGLE), 2)), (4, member(2))];
    assert_eq!(read_again(&messages).1, [1, 2, 6]);
}

#[test]
fn later_readers_take_what_the_trim_record_says_whatever_was_removed_since() {
    let (mut chain, valid, _) = read_again(&void_records());
    chain.settle(Some(Revision(2)));
    let loss = chain.loss().cloned();
    assert_eq!(loss.as_ref().map(|loss| loss.void.clone()), Some(vec![(3, 8)]));
    let mut messages = void_records();
    // A replica that is behind still has the lost message.
    messages.insert(2, (3, Some(put(1, 3, SINGLE))));
    let mut last = trim(3, 8, 7, true);
    if let Body::Trim(trim) = &mut last.body {
        trim.loss.clone_from(&loss);
    }
    messages.push((14, at(last, 4)));
    let valid = [valid, vec![8]].concat();
    let point = TrimPoint { to: LogIndex(7), sequence: Sequence(14), is_lossy: true, loss };
    // The void messages go, the last of them first.
    for left in [8, 7, 6, 4, 3, 0] {
        let is_left = |at: u64| at <= left || !(3..=8).contains(&at);
        let messages: Messages = messages.iter().filter(|(at, _)| is_left(*at)).cloned().collect();
        let mut chain = Chain::new(Some(point.clone()));
        assert_eq!(read(&mut chain, &messages).0, valid, "up to {left}");
        assert!(chain.is_whole() && chain.is_lossy());
        assert_eq!(chain.holes(), [(Sequence(3), Sequence(8))]);
        // Another loss is accepted on top of it.
        let mut chain = Chain::accepting(point.loss.clone(), Beginnings::default());
        assert_eq!(read(&mut chain, &messages).0, valid, "up to {left}");
    }
}

#[test]
fn missing_messages_are_named_above_the_floor_only_and_the_last_loss_decides() {
    let messages = [
        (2, at(start(1, 1), 1)),
        (5, at(put(1, 4, SINGLE), 4)),
        (8, at(put(1, 7, SINGLE), 7)),
        (9, at(start(2, 8), 7)),
    ];
    let mut chain = accepting();
    read(&mut chain, &messages);
    chain.settle(Some(Revision(4)));
    assert_eq!(chain.loss(), Some(&AcceptedLoss { at: 9, void: vec![(6, 7)] }));
    let mut earlier = trim(2, 9, 8, true);
    if let Body::Trim(trim) = &mut earlier.body {
        trim.loss = Some(AcceptedLoss { at: 5, void: Vec::new() });
    }
    read(&mut chain, &[(10, at(earlier, 7))]);
    assert_eq!((chain.loss().map(|loss| loss.at), chain.is_loss_unrecorded()), (Some(9), true));
}

#[test]
fn a_load_that_accepts_a_loss_skips_where_something_is_missing_and_keeps_to_known_nonces() {
    let mut chain = accepting();
    // Nothing is missing before sequence 3, so its record is void, and index 3 is that of sequence 4.
    let messages = [
        (1, Some(start(1, 1))),
        (2, Some(put(1, 2, SINGLE))),
        (3, Some(put(1, 5, SINGLE))),
        (4, Some(put(1, 3, SINGLE))),
    ];
    assert_eq!(read(&mut chain, &messages).0, [1, 2, 3]);
    // A gap does not make another writer's record of this epoch valid, nor one that takes the revision back.
    let forged = Record { nonce: 99, ..put(1, 6, SINGLE) };
    let back = at(put(1, 6, SINGLE), 2);
    let messages = [(6, Some(forged)), (8, back), (9, Some(put(1, 6, SINGLE)))];
    assert_eq!(read(&mut chain, &messages).0, [6]);
    assert_eq!(chain.last(), (Sequence(9), Sequence(1)));
}

#[test]
fn a_load_that_accepts_a_loss_takes_what_is_there_until_it_settles() {
    let mut chain = accepting();
    let messages = [
        (3, Some(start(2, 5))),
        (4, Some(put(2, 6, SINGLE))),
        (7, Some(put(4, 9, SINGLE))),
        (8, Some(start(5, 10))),
    ];
    assert_eq!(read(&mut chain, &messages).0, [5, 6, 9, 10]);
    let missing = [(1, 2), (5, 6)].map(|(from, to)| (Sequence(from), Sequence(to)));
    assert_eq!((chain.holes(), chain.is_whole()), (missing.to_vec(), true));
    chain.settle(None);
    assert_eq!((chain.trim_to(), chain.is_lossy(), chain.is_whole()), (LogIndex(10), true, true));
    assert_eq!(read(&mut chain, &[(9, Some(trim(5, 11, 10, true)))]).0, [11]);
    assert_eq!(read(&mut chain, &[(11, Some(put(5, 12, SINGLE)))]).2, Outcome::Missing);
}

#[test]
fn a_trim_record_of_an_earlier_version_names_no_loss() {
    let payload = r#"{"to":5,"floor":4,"digest":1,"is_lossy":true}"#;
    let trim: crate::record::Trim = serde_json::from_str(payload).expect("it is one");
    assert_eq!((trim.is_lossy, trim.loss), (true, None));
}

#[test]
fn a_reader_that_meets_a_loss_which_it_does_not_know_starts_again() {
    let lossy = |index| {
        let mut record = trim(2, index, 3, true);
        if let Body::Trim(trim) = &mut record.body {
            trim.loss = Some(AcceptedLoss { at: 4, void: vec![(3, 3)] });
        }
        Some(record)
    };
    // A replica that is behind brings the lost message 3, and did not have the trim record yet.
    let messages = vec![
        (1, Some(start(1, 1))),
        (2, Some(put(1, 2, SINGLE))),
        (3, Some(put(1, 3, SINGLE))),
        (4, Some(start(2, 4))),
        (5, lossy(5)),
    ];
    let mut chain = Chain::new(None);
    let (valid, _, outcome) = read(&mut chain, &messages);
    assert_eq!((valid, outcome), (vec![1, 2, 3, 4], Outcome::Missing));
    let loss = Some(AcceptedLoss { at: 4, void: vec![(3, 3)] });
    let point = TrimPoint { to: LogIndex(3), sequence: Sequence(5), is_lossy: true, loss };
    let mut chain = Chain::new(Some(point));
    assert_eq!(read(&mut chain, &messages).0, [1, 2, 4, 5]);
    // Later trim records repeat it.
    assert_eq!(read(&mut chain, &[(6, lossy(6))]), (vec![6], vec![], Outcome::Valid));
}

#[test]
fn a_hole_that_held_an_epoch_record_is_named_below_the_floor_too() {
    let messages = [
        (1, at(start(1, 1), 1)),
        (4, at(put(1, 4, SINGLE), 4)),
        (7, at(put(2, 7, SINGLE), 7)),
        (8, at(start(3, 8), 7)),
    ];
    let mut chain = accepting();
    read(&mut chain, &messages);
    chain.settle(Some(Revision(9)));
    assert_eq!(chain.loss(), Some(&AcceptedLoss { at: 8, void: vec![(5, 6)] }));
}
