//! Messages of the stream that another program may have written, and the state after them.

use super::choices::Choices;
use crate::applier::{Applier, Strictness, Tables};
use crate::core::{History, KeyVersion, Reader, State, Writer};
use crate::log;
use crate::record::{Chain, Outcome};
use crate::types::{KeyRange, LogIndex, Revision, Sequence};

/// Records, foreign messages, batches without an end and gaps in any order, to an instance that publishes
/// after each and to one that publishes once: neither panics, the store makes sense at each step, and in the
/// end both hold the same.
pub fn records(data: &[u8]) {
    let mut choices = Choices::new(data);
    let (mut often, reader) = instance();
    let (mut once, other) = instance();
    let mut chain = Chain::new(None);
    let mut next = Sequence(1);
    let mut seen = (Revision(0), LogIndex(0));
    while !choices.is_empty() {
        let (mut valid, mut void) = (Vec::new(), Vec::new());
        let (subject, headers, payload) = message(&mut choices, &chain);
        let record = log::decode_message(&subject, &headers, &payload, next);
        let outcome = chain.take(next, record, &mut valid, &mut void);
        assert!(outcome == Outcome::Valid || valid.is_empty());
        next = Sequence(next.0 + 1 + u64::from(choices.byte() == 255));
        let strictness = Strictness { trim_to: chain.trim_to(), is_whole: true, checkpoint: None };
        let (one, another) = (often.apply(valid.clone(), strictness), once.apply(valid, strictness));
        assert_eq!(one.is_ok(), another.is_ok());
        // A damaged log is not shown.
        if one.is_err() {
            return;
        }
        often.note_void(&void);
        if choices.byte().is_multiple_of(8) {
            often.sweep(usize::from(choices.byte()));
        }
        often.publish();
        let state = reader.snapshot();
        check(&state);
        assert!(seen.0 <= state.revision && seen.1 <= state.log_index, "the store went back from {seen:?}");
        seen = (state.revision, state.log_index);
    }
    for applier in [&mut often, &mut once] {
        // Nothing is swept before the first publication.
        applier.publish();
        while applier.is_sweeping() {
            applier.sweep(usize::MAX);
        }
        applier.publish();
    }
    assert_eq!(outline(&reader.snapshot()), outline(&other.snapshot()));
    assert_eq!(often.digest(), once.digest());
}

fn instance() -> (Applier, Reader) {
    let (writer, reader) = Writer::new();
    (Applier::new(writer, Tables::new(crate::auth::AuthSettings::default())), reader)
}

/// A message as jetway could have written it but for its numbers, or of any text: subject, headers and
/// payload.
fn message(choices: &mut Choices<'_>, chain: &Chain) -> (String, String, Vec<u8>) {
    let (epoch, nonce, index) = (chain.epoch().0, chain.nonce(), chain.index().0);
    let shape = choices.byte();
    let (subject, header) = match shape % 8 {
        0 => (choices.text(), choices.text()),
        1 => (
            "=_.epoch".to_owned(),
            format!("{} {:x} {} {} 1/1 1.1 s", epoch + 1, shape, index + 1, choices.number()),
        ),
        2 => {
            let reserved = [
                "barrier",
                "trim",
                "floor",
                "stop",
                "users",
                "lease.7",
                "alarm.0.nospace",
                "token.a",
                "member.7",
            ];
            let subject = format!("=_.{}", reserved[usize::from(choices.byte()) % reserved.len()]);
            let kind = ["b", "s", "x"][usize::from(choices.byte() % 3)];
            (subject, format!("{epoch} {nonce:x} {} {} 1/1 1.1 {kind}", index + 1, choices.number()))
        }
        _ => {
            let key = ["a", "b", "=.c", "c.d"][usize::from(choices.byte() % 4)];
            let index = index + 1 + u64::from(choices.byte() == 1);
            let (place, count) = match choices.byte() {
                single @ 0..=127 => (1, 1 + u32::from(single % 2 * (single % 3))),
                more => (1 + u32::from(more % 4), 1 + u32::from(more / 4 % 4)),
            };
            let revision = choices.number();
            let kind = match choices.byte() % 3 {
                0 => "d".to_owned(),
                1 => format!("p {revision} 1 0"),
                _ => format!("p {} {} {}", choices.number(), choices.number(), choices.byte() % 3),
            };
            (
                key.to_owned(),
                format!(
                    "{epoch} {nonce:x} {index} {revision} {place}/{count} 1.{} {kind}",
                    choices.byte() % 2
                ),
            )
        }
    };
    let payload = choices.bytes().to_vec();
    (subject, format!("NATS/1.0\r\nJetway: {header}\r\n\r\n"), payload)
}

/// Checks the invariants of every published store.
fn check(state: &State) {
    let all = KeyRange::all();
    let histories: Vec<_> = state.index.range(&all).collect();
    assert!(histories.is_sorted_by(|a, b| a.key() < b.key()), "keys in order, each once");
    let live = histories.iter().filter(|history| history.is_live()).count();
    assert_eq!(state.index.live(), live);
    assert_eq!(state.index.count(&all), live);
    for history in &histories {
        let revisions: Vec<_> = history.versions().map(KeyVersion::mod_revision).collect();
        // A transaction may change a key twice.
        assert!(revisions.is_sorted_by(|a, b| a >= b), "{revisions:?}");
        assert!(revisions.iter().all(|revision| *revision <= state.revision));
    }
    let mut last = state.compacted.map_or(Revision(0), Revision::prev);
    for entry in state.log.since(Revision(0)) {
        assert!(last < entry.revision() && entry.revision() <= state.revision, "the log goes on from {last}");
        assert!(!entry.events().is_empty());
        last = entry.revision();
    }
    for past in state.compacted.map_or(0, |floor| floor.0).max(state.revision.0 - 5)..=state.revision.0 {
        let at = Revision(past);
        assert_eq!(state.count(&all, at), state.index.live_range(&all, at).count(), "count at {past}");
    }
}

/// Key, value, and the revisions and number of a version.
type Outlined = (Vec<u8>, Vec<u8>, i64, i64, i64);

/// Everything in which two stores of the same log agree.
fn outline(state: &State) -> (Revision, LogIndex, Option<Revision>, usize, Vec<Outlined>) {
    let all = KeyRange::all();
    let versions = state.index.range(&all).flat_map(History::versions).map(|version| {
        (
            version.key().to_vec(),
            version.value().to_vec(),
            version.create_revision().0,
            version.mod_revision().0,
            version.version(),
        )
    });
    (state.revision, state.log_index, state.compacted, state.log.len(), versions.collect())
}
