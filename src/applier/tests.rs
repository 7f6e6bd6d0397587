use super::*;
use crate::core::VersionParts;
use crate::record::OperationId;
use crate::types::Epoch;

fn placed(at: u64, revision: i64, body: Body) -> Placed {
    let record = Record {
        epoch: Epoch(1),
        nonce: 10,
        index: LogIndex(at),
        revision: Revision(revision),
        place: 1,
        count: 1,
        operation: OperationId { instance: 1, counter: at },
        body,
    };
    Placed { sequence: Sequence(at), record }
}

fn put(at: u64, version: i64) -> Placed {
    let version = KeyVersion::new(&VersionParts {
        key: b"k",
        value: b"",
        create_revision: Revision(at as i64 - version + 1),
        mod_revision: Revision(at as i64),
        version,
        lease: LeaseId::NONE,
        sequence: Sequence(at),
        place: 1,
    });
    placed(at, at as i64, Body::Key(version))
}

#[test]
fn a_trim_record_of_an_older_floor_leaves_what_the_newer_one_has_superseded() {
    let (writer, _reader) = Writer::new();
    let mut applier = Applier::new(writer, Tables::new(crate::auth::AuthSettings::default()));
    let strictness = Strictness { trim_to: LogIndex::NONE, is_whole: true, checkpoint: None };
    let before = [put(2, 1), put(3, 2), put(4, 3), put(5, 4)];
    applier.apply(before, strictness).expect("each follows the one before");
    applier.publish();
    let compact = |applier: &mut Applier, at, floor| {
        let record = placed(at, 5, Body::Floor(Revision(floor)));
        applier.apply([record], strictness).expect("a floor compares nothing");
        while applier.is_sweeping() {
            applier.sweep(100);
        }
    };
    let trim = |to, floor| Trim { to, floor: Some(floor), digest: Digest(0), is_lossy: false, loss: None };
    compact(&mut applier, 6, 3);
    // The floor rises while the trim record waits for what is in flight.
    compact(&mut applier, 7, 5);
    assert_eq!(applier.take_garbage(&trim(3, 3), Sequence(8)).values, [Sequence(2)]);
    assert!(applier.has_garbage());
    // The floor record of before goes by the index.
    assert_eq!(applier.take_garbage(&trim(7, 5), Sequence(9)).values, [3, 4, 6].map(Sequence));
    assert!(!applier.has_garbage());
}

#[test]
fn a_floor_record_that_names_a_lower_floor_is_garbage_itself() {
    let (writer, _reader) = Writer::new();
    let mut applier = Applier::new(writer, Tables::new(crate::auth::AuthSettings::default()));
    let strictness = Strictness { trim_to: LogIndex::NONE, is_whole: false, checkpoint: None };
    let floor = |at, floor| placed(at, at as i64, Body::Floor(Revision(floor)));
    applier.apply([put(2, 1), floor(3, 2), floor(4, 1)], strictness).expect("nothing is compared");
    assert_eq!(applier.floor, Some(Revision(2)));
    let trim = Trim { to: 4, floor: Some(2), digest: Digest(0), is_lossy: true, loss: None };
    assert_eq!(applier.take_garbage(&trim, Sequence(5)).values, [Sequence(4)]);
}

#[test]
fn members_are_published_with_the_state_and_stay_published_during_a_load() {
    let (writer, _reader) = Writer::new();
    let mut applier = Applier::new(writer, Tables::new(crate::auth::AuthSettings::default()));
    let strictness = Strictness { trim_to: LogIndex::NONE, is_whole: false, checkpoint: None };
    let published = applier.tables.members.published();
    let ids = || published.borrow().keys().copied().collect::<Vec<_>>();
    let add = |at, id| placed(at, 1, Body::Member(id, Some(Box::default())));
    applier.apply([add(1, 7), add(2, 8)], strictness).expect("members compare nothing");
    assert!(ids().is_empty());
    applier.publish();
    assert_eq!(ids(), [7, 8]);
    // The log is loaded again, and the record of member 7 comes late.
    applier.reset(None);
    applier.apply([add(2, 8)], strictness).expect("members compare nothing");
    assert_eq!(ids(), [7, 8]);
    applier.apply([add(3, 7)], strictness).expect("members compare nothing");
    applier.publish();
    assert_eq!(ids(), [7, 8]);
}
