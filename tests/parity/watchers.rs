//! The watchers of one side: what each has received, and what it still owes.
//!
//! An observer watches everything from the start. Since every revision has an event, the observer shows when
//! the history is complete up to a revision, and the history shows how many events each other watcher owes.
//! Counting replaces waiting for silence.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jetway::proto::etcdserverpb::watch_create_request::FilterType;
use jetway::proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use jetway::proto::mvccpb::Event;
use jetway::proto::mvccpb::event::EventType;

use crate::answer::{Answer, mask};
use support::client::{Client, revision};
use support::keys::TO_THE_END;
use support::watch::*;

/// How long an event that is due may take.
const DUE: Duration = Duration::from_secs(10);

/// Each client has one watch stream.
pub const STREAMS: usize = 3;

/// The events of a watcher, in a form in which equal behaviour is equal.
#[derive(Clone, Default, PartialEq)]
pub struct Received {
    pub events: Vec<Event>,
    /// The message that ended the watcher.
    pub end: Option<WatchResponse>,
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for event in &self.events {
            writeln!(f, "    {event:?}")?;
        }
        write!(f, "    end: {:?}", self.end)
    }
}

/// One registered watch id of one stream.
#[derive(Debug)]
struct Watcher {
    request: WatchCreateRequest,
    /// The first revision whose events are due.
    start: i64,
    /// It is known to have read its history.
    proven: bool,
    /// It started below the compacted revision, so it is due a cancel instead of events.
    compacted: bool,
    /// How much of the history has been looked at, and how many events of it were for this watcher.
    looked_at: usize,
    due: usize,
    got: usize,
    /// The revision of the last event, and whether more events of that revision may follow.
    last: i64,
    fragment: bool,
    /// The events since the last comparison.
    received: Received,
}

#[derive(Debug)]
struct Stream {
    stream: WatchStream,
    watchers: BTreeMap<i64, Watcher>,
    /// Those that ended since the last comparison, by the order in which they did.
    ended: Vec<(i64, Received)>,
    progress: Vec<i64>,
    /// Answers to progress requests that were made twice and may have been answered twice.
    surplus: usize,
}

#[derive(Debug)]
pub struct Watchers {
    observer: WatchStream,
    /// Every event since the start, or what the compactions before the last kill had left.
    history: Vec<Event>,
    /// How much of the history has been compared.
    compared: usize,
    streams: Vec<Stream>,
}

/// A rule that this side alone breaks.
pub type Violation = String;

impl Watchers {
    /// No watchers but the observer, who begins at `start_revision`.
    pub async fn open(observer: &Client, clients: &[Client], start_revision: i64) -> Self {
        let mut observer = WatchStream::open(observer);
        let everything = WatchCreateRequest { start_revision, prev_kv: true, ..watch_all("") };
        observer.watch(everything).await;
        let streams = clients.iter().map(Stream::open).collect();
        Self { observer, history: Vec::new(), compared: 0, streams }
    }

    /// Ends a stream and its watchers and opens another.
    pub fn reopen(&mut self, stream: usize, client: &Client) {
        self.streams[stream] = Stream::open(client);
    }

    /// Sends a message that asks for nothing, which has no answer.
    pub fn nothing(&self, stream: usize) {
        self.streams[stream].stream.send(None);
    }

    /// Creates a watcher and returns the created answer, ids of the server masked; or the status that ended
    /// the stream instead, which is then opened again.
    pub async fn create(
        &mut self,
        client: &Client,
        stream: usize,
        request: WatchCreateRequest,
        floor: i64,
    ) -> Result<Answer, Violation> {
        let n = stream;
        let stream = &mut self.streams[n];
        stream.stream.request(request.clone());
        let mut answer = loop {
            match stream.stream.message().await {
                Some(Ok(message)) if message.created => break message,
                Some(Ok(message)) => stream.take(message)?,
                Some(Err(status)) => {
                    self.reopen(n, client);
                    return Ok(Answer::error(&status));
                }
                None => return Err(format!("stream {n} ended with OK")),
            }
        };
        if !answer.canceled {
            let start = match request.start_revision {
                0 => revision(&answer.header) + 1,
                start => start,
            };
            let watcher = Watcher {
                start,
                proven: false,
                compacted: request.start_revision != 0 && start < floor,
                request,
                looked_at: self.history.partition_point(|event| pair(event).mod_revision < start),
                due: 0,
                got: 0,
                last: 0,
                fragment: false,
                received: Received::default(),
            };
            stream.watchers.insert(answer.watch_id, watcher);
        }
        mask(&mut answer.header);
        Ok(Answer::Watch(answer))
    }

    /// Cancels a watcher and returns the acknowledgement, if there is to be one.
    pub async fn cancel(&mut self, stream: usize, id: i64) -> Result<Option<WatchResponse>, Violation> {
        let stream = &mut self.streams[stream];
        stream.stream.cancel(id);
        // A second cancel of the id gets no answer, which shows later: it would be an unexpected message.
        let Some(mut watcher) = stream.watchers.remove(&id) else { return Ok(None) };
        loop {
            let mut message = stream.stream.next().await;
            if message.watch_id == id && message.canceled {
                mask(&mut message.header);
                watcher.received.end = None;
                stream.ended.push((id, watcher.received));
                return Ok(Some(message));
            }
            if message.watch_id != id || !is_progress(&message) {
                stream.take(message)?;
            }
        }
    }

    /// Asks for progress on a settled stream. `None` where the protocol has no answer.
    pub async fn progress(&mut self, stream: usize, current: i64) -> Result<Option<i64>, Violation> {
        let stream = &mut self.streams[stream];
        if !stream.answers_progress(current) {
            stream.stream.ask_progress();
            return Ok(None);
        }
        loop {
            let (answer, before, surplus) = stream.stream.progress_and_before().await;
            for message in before {
                stream.take(message)?;
            }
            let reported = revision(&answer.header);
            let is_late = reported < current && stream.surplus > 0;
            stream.surplus = stream.surplus + surplus - usize::from(is_late);
            if !is_late {
                return Ok(Some(reported));
            }
        }
    }

    /// Makes sure that no watcher reads history any more, so that a compaction cannot overtake one.
    ///
    /// A watcher that has got an event has read its history. A response to a progress request proves it for a
    /// watcher without events. If the stream gives no such response, the watcher is cancelled.
    pub async fn leave_history(&mut self, current: i64) -> Result<(), Violation> {
        self.settle(current).await?;
        for n in 0..self.streams.len() {
            let stream = &mut self.streams[n];
            let mut unproven =
                stream.watchers.iter().filter(|(_, watcher)| watcher.may_read_history(current));
            if unproven.clone().next().is_some() && stream.answers_progress(current) {
                self.progress(n, current).await?;
                self.streams[n].watchers.values_mut().for_each(|watcher| watcher.proven = true);
            } else {
                let unproven: Vec<_> = unproven.by_ref().map(|(id, _)| *id).collect();
                for id in unproven {
                    self.cancel(n, id).await?;
                }
            }
        }
        Ok(())
    }

    /// Waits until every watcher has got what it is due up to `current`.
    pub async fn settle(&mut self, current: i64) -> Result<(), Violation> {
        self.observe(current).await?;
        for (n, stream) in self.streams.iter_mut().enumerate() {
            loop {
                while let Some(message) = stream.stream.arrived() {
                    stream.take(message).map_err(|broken| format!("stream {n}: {broken}"))?;
                }
                let Some(owed) = stream.owed(&self.history) else { break };
                match tokio::time::timeout(DUE, stream.stream.next()).await {
                    Ok(message) => stream.take(message).map_err(|broken| format!("stream {n}: {broken}"))?,
                    Err(_) => return Err(format!("stream {n}: {owed}")),
                }
            }
            if let Some(unasked) = stream.progress.first() {
                return Err(format!("stream {n}: progress {unasked} where none was to be answered"));
            }
        }
        Ok(())
    }

    /// Brings the history up to `current`.
    async fn observe(&mut self, current: i64) -> Result<(), Violation> {
        let last = |history: &[Event]| history.last().map_or(1, |event| pair(event).mod_revision);
        while last(&self.history) < current {
            let Ok(message) = tokio::time::timeout(DUE, self.observer.next()).await else {
                return Err(format!("the observer is at {}, not {current}", last(&self.history)));
            };
            check_batch(&message, last(&self.history), false)?;
            self.history.extend(message.events);
        }
        Ok(())
    }

    /// All that was received since the last call: the history and each watcher.
    pub fn received(&mut self) -> (Received, Vec<(usize, i64, Received)>) {
        let history = Received { events: self.history[self.compared..].to_vec(), end: None };
        self.compared = self.history.len();
        let mut all = Vec::new();
        for (n, stream) in self.streams.iter_mut().enumerate() {
            all.extend(stream.ended.drain(..).map(|(id, received)| (n, id, received)));
            let watchers = stream.watchers.iter_mut();
            all.extend(watchers.map(|(id, watcher)| {
                let events = std::mem::take(&mut watcher.received.events);
                (n, *id, Received { events, end: watcher.received.end.clone() })
            }));
        }
        (history, all)
    }
}

impl Stream {
    fn open(client: &Client) -> Self {
        Self {
            stream: WatchStream::open(client),
            watchers: BTreeMap::new(),
            ended: Vec::new(),
            progress: Vec::new(),
            surplus: 0,
        }
    }

    /// Whether the protocol has an answer to a progress request, once all events are sent.
    fn answers_progress(&self, current: i64) -> bool {
        let unsynced = |watcher: &Watcher| watcher.compacted || watcher.request.start_revision > current;
        !self.watchers.is_empty() && !self.watchers.values().any(unsynced)
    }

    /// Files a message with its watcher.
    fn take(&mut self, mut message: WatchResponse) -> Result<(), Violation> {
        if is_progress(&message) {
            // A periodic one goes to one watcher and depends on the clock.
            if message.watch_id == -1 && self.surplus > 0 {
                self.surplus -= 1;
            } else if message.watch_id == -1 {
                self.progress.push(revision(&message.header));
            }
            return Ok(());
        }
        let Some(watcher) = self.watchers.get_mut(&message.watch_id) else {
            return Err(format!("a message for nobody: {message:?}"));
        };
        if message.canceled {
            mask(&mut message.header);
            watcher.received.end = Some(message);
            return Ok(());
        }
        watcher.last = check_batch(&message, watcher.last, watcher.fragment)?;
        watcher.fragment = message.fragment;
        watcher.got += message.events.len();
        watcher.received.events.extend(message.events);
        Ok(())
    }

    /// The first missing event of `history`, with its watcher.
    fn owed(&mut self, history: &[Event]) -> Option<String> {
        self.watchers.iter_mut().find_map(|(id, watcher)| {
            if watcher.compacted {
                let cancelled = watcher.received.end.is_some();
                return (!cancelled).then(|| format!("watcher {id} is due a compaction cancel"));
            }
            let fresh = history.get(watcher.looked_at..).unwrap_or_default();
            watcher.due += fresh.iter().filter(|event| watcher.wants(event)).count();
            watcher.looked_at += fresh.len();
            let (due, got) = (watcher.due, watcher.got);
            (got < due).then(|| format!("watcher {id} got {got} of {due} events"))
        })
    }
}

impl Watcher {
    fn may_read_history(&self, current: i64) -> bool {
        let past = 1..=current;
        !self.compacted && !self.proven && past.contains(&self.request.start_revision) && self.got == 0
    }

    fn wants(&self, event: &Event) -> bool {
        let request = &self.request;
        let kv = pair(event);
        let start = if request.key.is_empty() { &b"\0"[..] } else { &request.key };
        let in_range = match &request.range_end[..] {
            b"" => kv.key == start,
            TO_THE_END => &kv.key[..] >= start,
            end => &kv.key[..] >= start && &kv.key[..] < end,
        };
        let dropped_by = match event.r#type() {
            EventType::Put => FilterType::Noput,
            EventType::Delete => FilterType::Nodelete,
        };
        in_range && kv.mod_revision >= self.start && !request.filters.contains(&dropped_by.into())
    }
}

/// Checks that a batch is whole and goes on after revision `last`, or within it if it is a fragment's
/// continuation. Returns the batch's last revision.
fn check_batch(message: &WatchResponse, last: i64, continues: bool) -> Result<i64, Violation> {
    let mut before = last;
    for (n, event) in message.events.iter().enumerate() {
        let revision = pair(event).mod_revision;
        if revision < before || (n == 0 && revision == before && !continues) {
            return Err(format!("revision {revision} after {before}, split or out of order: {message:?}"));
        }
        before = revision;
    }
    if message.events.is_empty() || revision(&message.header) < before {
        return Err(format!("no batch of events: {message:?}"));
    }
    Ok(before)
}
