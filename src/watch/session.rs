//! The logic of one Watch call: requests in, responses out, one at a time and only when somebody wants the next.
//!
//! There is no queue of responses. Answers to requests wait in a short list (whoever reads the requests stops while it
//! is long), live events wait in the mailbox, and history stays in the log until there is room for it on the
//! connection. So a slow client costs a full mailbox at the most.
//!
//! - S1: answers come first and in the order of their requests, so nothing of a watcher precedes its created answer,
//!   and nothing follows its cancel answer.
//! - S2: a watcher is live (registered with the hub), or it is catching up from the log at `next`, or compaction has
//!   ended it. It becomes live only in one step with having seen everything before `from`.
//! - S3: a progress mark counts for a watcher only where everything up to it has been sent: the watcher was live when
//!   the hub put the mark down, or had been given everything up to it before it became so.

use super::batch::Batch;
use super::history;
use super::hub::{Interest, Refused, Registration, Start, WatchHub};
use super::mailbox::{Item, Mailbox, ProgressScope, Ticket};
use crate::core::Reader;
use crate::error::EtcdError;
use crate::types::{KeyRange, Revision};
use bytes::Bytes;
use smallvec::SmallVec;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// The watch id of progress for a whole stream, and of watchers that were never created.
pub const NO_WATCHER: i64 = -1;

/// Answers that may wait before requests are left unread.
const ANSWERS: usize = 256;
/// Encoded events after which a response that catches up is long enough, in bytes.
const RESPONSE_BYTES: usize = if cfg!(test) { 4096 } else { 1 << 20 };
/// Live responses after which one slice of history has its turn.
const LIVE_RUN: usize = 16;
/// Steps without a response after which others have their turn on this thread.
const STEPS: usize = 32;

/// A client's request, checked as far as that needs no knowledge of the stream.
#[derive(Clone, Debug)]
pub enum Request {
    /// Make a watcher.
    Create(Create),
    /// Answer a create that cannot be, with its reason.
    Refuse(EtcdError),
    /// End the watcher of this id.
    Cancel(i64),
    /// Say how far the stream is.
    Progress,
}

/// A watcher to make.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are the independent options of the wire")]
pub struct Create {
    /// What to watch.
    pub range: KeyRange,
    /// The first revision wanted; 0 for what happens from now on.
    pub start: Revision,
    /// The client's choice; 0 leaves it to the stream.
    pub watch_id: i64,
    /// Events show what was there before.
    pub prev_kv: bool,
    /// The ticker's progress is wanted.
    pub progress_notify: bool,
    /// Responses may be split.
    pub fragment: bool,
    /// Puts are not wanted.
    pub no_put: bool,
    /// Deletes are not wanted.
    pub no_delete: bool,
}

/// One response, before it is put into its wire form.
#[derive(Clone, Debug)]
pub struct Response {
    /// For the header; 0 with [`Body::Compacted`].
    pub revision: Revision,
    /// The watcher, or [`NO_WATCHER`].
    pub watch_id: i64,
    /// What it says.
    pub body: Body,
}

/// What a response says.
#[derive(Clone, Debug)]
pub enum Body {
    /// The watcher exists now.
    Created,
    /// The watcher could not be made.
    Refused(EtcdError),
    /// The client has ended the watcher.
    Canceled,
    /// History that the watcher needs is gone; this is the oldest revision left.
    Compacted(Revision),
    /// Everything up to the header's revision has been sent.
    Progress,
    /// Events of whole revisions, in order.
    Events {
        /// Encoded as `mvccpb.Event`.
        events: SmallVec<[Bytes; 1]>,
        /// Whether the client takes them in pieces.
        may_fragment: bool,
    },
}

/// What comes next on a stream.
#[derive(Debug)]
pub(super) enum Step {
    Respond(Response),
    /// Nothing until the mailbox or a request brings something.
    Idle,
    /// More, but not at once: others want to run.
    Yield,
    /// The call is over.
    End(EtcdError),
}

#[derive(Debug)]
pub(super) struct Session {
    hub: WatchHub,
    reader: Reader,
    epoch: u64,
    mailbox: Arc<Mailbox>,
    watchers: HashMap<i64, Watcher>,
    next_id: i64,
    answers: VecDeque<Response>,
    /// What was in the mailbox when it was last looked at.
    inbox: VecDeque<Item>,
    /// Watchers that catch up, each with its stint, in turns.
    behind: VecDeque<(i64, u64)>,
    next_stint: u64,
    live_run: usize,
    end: Option<EtcdError>,
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "options of the wire and two marks of the ticker")]
struct Watcher {
    interest: Interest,
    prev_kv: bool,
    fragment: bool,
    progress_notify: bool,
    /// As the client gave it.
    start: Revision,
    phase: Phase,
    /// Revision of the newest event that was sent.
    told: Revision,
    /// Whether events were sent since the last tick.
    is_fresh: bool,
    /// Whether the last tick found that progress should be told.
    is_due: bool,
}

#[derive(Debug)]
enum Phase {
    Live {
        registration: Registration,
        from: Revision,
    },
    /// `stint` tells this time of catching up from earlier ones.
    Behind {
        next: Revision,
        stint: u64,
    },
    Compacted,
}

impl Watcher {
    fn holds(&self, ticket: Ticket) -> bool {
        matches!(&self.phase, Phase::Live { registration, .. } if registration.ticket == ticket)
    }

    /// Whether a progress mark of this revision holds for the watcher (S3). One from before it has caught up with may be
    /// older than what it has been told since; to tell that would be to go back.
    fn has_all(&self, revision: Revision, before: Ticket) -> bool {
        let Phase::Live { registration, from } = &self.phase else { return false };
        let holds = registration.ticket < before || revision < *from;
        self.start <= revision && self.told <= revision && holds
    }
}

impl Session {
    pub(super) fn new(hub: WatchHub, reader: Reader) -> Session {
        let (epoch, mailbox) = hub.open();
        Session {
            hub,
            reader,
            epoch,
            mailbox,
            watchers: HashMap::new(),
            next_id: 0,
            answers: VecDeque::new(),
            inbox: VecDeque::new(),
            behind: VecDeque::new(),
            next_stint: 0,
            live_run: 0,
            end: None,
        }
    }

    pub(super) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// Whether another request may be handled now.
    pub(super) fn has_room(&self) -> bool {
        self.answers.len() < ANSWERS
    }

    /// Ends the call.
    pub(super) fn fail(&mut self, error: EtcdError) {
        self.end.get_or_insert(error);
    }

    pub(super) fn handle(&mut self, request: Request) {
        match request {
            Request::Create(create) => {
                if let Err(error) = self.create(create) {
                    self.refuse(error);
                }
            }
            Request::Refuse(error) => self.refuse(error),
            Request::Cancel(watch_id) => self.cancel(watch_id),
            Request::Progress => {
                let is_synced = |watcher: &Watcher| matches!(watcher.phase, Phase::Live { .. });
                if !self.watchers.is_empty() && self.watchers.values().all(is_synced) {
                    self.hub.progress(&self.mailbox, ProgressScope::Stream);
                }
            }
        }
    }

    fn answer(&mut self, revision: Revision, watch_id: i64, body: Body) {
        self.answers.push_back(Response { revision, watch_id, body });
    }

    fn refuse(&mut self, error: EtcdError) {
        self.answer(self.reader.revision(), NO_WATCHER, Body::Refused(error));
    }

    fn create(&mut self, create: Create) -> Result<(), EtcdError> {
        let Create { range, start, prev_kv, progress_notify, fragment, no_put, no_delete, .. } = create;
        if range.is_empty() {
            return Err(EtcdError::WatchRangeEmpty);
        }
        let watch_id = match create.watch_id {
            0 => {
                while self.watchers.contains_key(&self.next_id) {
                    self.next_id += 1;
                }
                self.next_id += 1;
                self.next_id - 1
            }
            taken if self.watchers.contains_key(&taken) => return Err(EtcdError::WatchIdInUse),
            free => free,
        };
        let interest = Interest { range, no_put, no_delete };
        let (revision, phase) = match self.hub.start(&self.mailbox, self.epoch, watch_id, &interest, start) {
            Ok(Start::Live { revision, registration }) => {
                (revision, Phase::Live { registration, from: start.max(revision.next()) })
            }
            Ok(Start::Past { revision }) => (revision, self.fall_behind(watch_id, start)),
            Err(_) => {
                self.reset();
                return Ok(());
            }
        };
        self.answer(revision, watch_id, Body::Created);
        let watcher = Watcher {
            interest,
            prev_kv,
            fragment,
            progress_notify,
            start,
            phase,
            told: Revision(0),
            is_fresh: false,
            is_due: false,
        };
        self.watchers.insert(watch_id, watcher);
        self.hub.metrics().watchers.add(1);
        Ok(())
    }

    fn cancel(&mut self, watch_id: i64) {
        let Some(watcher) = self.watchers.remove(&watch_id) else { return };
        self.hub.metrics().watchers.sub(1);
        match watcher.phase {
            Phase::Live { registration, .. } => self.hub.leave([registration]),
            Phase::Behind { .. } => self.hub.metrics().slow_watchers.sub(1),
            Phase::Compacted => {}
        }
        // Progress that was to be told of it would come behind its end.
        self.answers.retain(|answer| answer.watch_id != watch_id || !matches!(answer.body, Body::Progress));
        self.answer(self.reader.revision(), watch_id, Body::Canceled);
    }

    fn fall_behind(&mut self, watch_id: i64, next: Revision) -> Phase {
        let stint = self.next_stint;
        self.next_stint += 1;
        self.behind.push_back((watch_id, stint));
        self.hub.metrics().slow_watchers.add(1);
        Phase::Behind { next, stint }
    }

    fn reset(&mut self) {
        self.fail(EtcdError::Unavailable(
            "the store lost its newest writes and was loaded afresh; watch again".into(),
        ));
    }

    /// The ticker has struck.
    pub(super) fn tick(&mut self) {
        let mut is_any_due = false;
        for watcher in self.watchers.values_mut().filter(|watcher| watcher.progress_notify) {
            let was_fresh = std::mem::replace(&mut watcher.is_fresh, false);
            watcher.is_due = !was_fresh && matches!(watcher.phase, Phase::Live { .. });
            is_any_due |= watcher.is_due;
        }
        if is_any_due {
            self.hub.progress(&self.mailbox, ProgressScope::Due);
        }
    }

    /// The next response, if there is one now.
    pub(super) fn next(&mut self) -> Step {
        for _ in 0..STEPS {
            if let Some(error) = &self.end {
                return Step::End(error.clone());
            }
            if let Some(answer) = self.answers.pop_front() {
                return Step::Respond(answer);
            }
            if self.inbox.is_empty() {
                self.mailbox.take(&mut self.inbox);
            }
            let response = if self.behind.is_empty() || !self.inbox.is_empty() && self.live_run < LIVE_RUN {
                self.live_run += 1;
                match self.inbox.pop_front() {
                    Some(item) => self.take_item(item),
                    None => return Step::Idle,
                }
            } else {
                self.live_run = 0;
                self.catch_up()
            };
            if let Some(response) = response {
                return Step::Respond(response);
            }
        }
        Step::Yield
    }

    fn take_item(&mut self, item: Item) -> Option<Response> {
        match item {
            Item::Events { watch_id, ticket, batch, matched, .. } => {
                let watcher = self.watchers.get_mut(&watch_id).filter(|watcher| watcher.holds(ticket))?;
                let events: SmallVec<[Bytes; 1]> = batch.events(&matched, watcher.prev_kv).collect();
                watcher.is_fresh = true;
                watcher.told = batch.revision();
                self.hub.metrics().events_sent.add(events.len());
                let body = Body::Events { events, may_fragment: watcher.fragment };
                Some(Response { revision: batch.revision(), watch_id, body })
            }
            Item::Lagging { watch_id, ticket, from } => {
                self.watchers.get(&watch_id).filter(|watcher| watcher.holds(ticket))?;
                let phase = self.fall_behind(watch_id, from);
                self.watchers.get_mut(&watch_id)?.phase = phase;
                None
            }
            Item::Progress { scope: ProgressScope::Stream, revision, before } => {
                let all = self.watchers.values().all(|watcher| watcher.has_all(revision, before));
                (all && !self.watchers.is_empty()).then_some(Response {
                    revision,
                    watch_id: NO_WATCHER,
                    body: Body::Progress,
                })
            }
            Item::Progress { scope: ProgressScope::Due, revision, before } => {
                for (watch_id, watcher) in &mut self.watchers {
                    if std::mem::replace(&mut watcher.is_due, false) && watcher.has_all(revision, before) {
                        self.answers.push_back(Response {
                            revision,
                            watch_id: *watch_id,
                            body: Body::Progress,
                        });
                    }
                }
                None
            }
            Item::Reset => {
                self.reset();
                None
            }
        }
    }

    /// Gives the next watcher in turn a slice of its history.
    fn catch_up(&mut self) -> Option<Response> {
        let (watch_id, turn) = self.behind.pop_front()?;
        let watcher = self.watchers.get_mut(&watch_id)?;
        let Phase::Behind { next, stint } = &mut watcher.phase else { return None };
        if *stint != turn {
            return None;
        }
        let state = self.reader.snapshot();
        if state.incarnation != self.epoch {
            self.reset();
            return None;
        }
        if let Some(floor) = state.compacted.filter(|floor| *next < *floor) {
            watcher.phase = Phase::Compacted;
            self.hub.metrics().slow_watchers.sub(1);
            return Some(Response { revision: Revision(0), watch_id, body: Body::Compacted(floor) });
        }
        let slice = history::read(&state, &watcher.interest, *next);
        let mut upto = slice.next;
        let mut events = SmallVec::new();
        let mut bytes = 0;
        for (entry, matched) in &slice.revisions {
            if bytes >= RESPONSE_BYTES {
                upto = entry.revision();
                break;
            }
            watcher.told = entry.revision();
            let batch = Batch::new(entry, &state);
            for event in batch.events(matched, watcher.prev_kv) {
                bytes += event.len();
                events.push(event);
            }
        }
        *next = upto;
        let registration = if upto > state.revision {
            self.hub.join(&self.mailbox, self.epoch, watch_id, &watcher.interest, upto)
        } else {
            Err(Refused::Behind)
        };
        match registration {
            Ok(registration) => {
                watcher.phase = Phase::Live { registration, from: upto };
                self.hub.metrics().slow_watchers.sub(1);
            }
            Err(Refused::Behind) => self.behind.push_back((watch_id, turn)),
            Err(Refused::Reset) => {
                self.reset();
                return None;
            }
        }
        if events.is_empty() {
            return None;
        }
        watcher.is_fresh = true;
        self.hub.metrics().events_sent.add(events.len());
        let body = Body::Events { events, may_fragment: watcher.fragment };
        Some(Response { revision: state.revision, watch_id, body })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let metrics = self.hub.metrics();
        metrics.watchers.sub(self.watchers.len());
        let behind = self.watchers.values().filter(|watcher| matches!(watcher.phase, Phase::Behind { .. }));
        metrics.slow_watchers.sub(behind.count());
        self.hub.leave(self.watchers.values().filter_map(|watcher| match watcher.phase {
            Phase::Live { registration, .. } => Some(registration),
            _ => None,
        }));
        self.hub.close(&self.mailbox);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Store, create, drain, prefix};
    use super::*;

    #[test]
    fn a_mark_put_down_while_a_watcher_was_on_its_way_to_join_does_not_count() {
        let mut store = Store::new();
        let mut session = store.session();
        session.handle(Request::Create(create(prefix("b"), 0)));
        drain(&mut session);
        (2..=4).for_each(|n| assert_eq!(store.put("a", "x"), n));
        session.handle(Request::Progress);
        store.hub.route();
        // It read history up to revision 2 before the hub went on to 4 and told progress; it joins just now.
        let interest = Interest { range: prefix("a"), no_put: false, no_delete: false };
        let from = Revision(3);
        let registration = store
            .hub
            .join(session.mailbox(), session.epoch, 7, &interest, from)
            .expect("close enough to replay");
        let watcher = Watcher {
            interest,
            prev_kv: false,
            fragment: false,
            progress_notify: false,
            start: Revision(2),
            phase: Phase::Live { registration, from },
            told: Revision(0),
            is_fresh: false,
            is_due: false,
        };
        session.watchers.insert(7, watcher);
        store.hub.metrics().watchers.add(1);
        let told: Vec<_> = drain(&mut session).iter().map(|told| (told.watch_id, told.revision.0)).collect();
        assert_eq!(told, [(7, 3), (7, 4)]);
    }

    #[test]
    fn a_mark_older_than_what_a_watcher_has_caught_up_with_is_not_told() {
        let mut store = Store::new();
        let mut session = store.session();
        session.handle(Request::Create(create(prefix("b"), 0)));
        drain(&mut session);
        (2..=4).for_each(|n| assert_eq!(store.put("a", "x"), n));
        session.handle(Request::Progress);
        store.hub.route();
        (5..=6).for_each(|n| assert_eq!(store.put("a", "x"), n));
        // The mark of 4 waits while another watcher catches up, with what the hub has not routed yet.
        session.mailbox.take(&mut session.inbox);
        session.live_run = LIVE_RUN;
        session.handle(Request::Create(create(prefix("a"), 2)));
        let told: Vec<_> = drain(&mut session).iter().map(|told| (told.watch_id, told.revision.0)).collect();
        assert_eq!(told, [(1, 6), (1, 6)], "created, and events up to 6");
    }
}
