//! The streams. The routing task alone uses them.

use super::batch::Interest;
use super::queue::{Item, Sender, WatcherId};
use super::requests::StreamId;
use std::collections::HashMap;
use std::sync::Arc;

/// One stream.
#[derive(Debug)]
pub(super) struct Stream<A> {
    pub(super) sender: Sender<A>,
    /// Its watchers by watch id, registered or not.
    pub(super) watchers: HashMap<i64, Known>,
    /// Its queue is not read any more.
    is_closed: bool,
    /// It has new items and was not woken yet.
    is_touched: bool,
}

/// A watcher of a stream.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) id: WatcherId,
    pub(super) interest: Arc<Interest>,
    /// Its registration.
    pub(super) number: Option<u64>,
}

/// All streams. Each has a place, which stays the same and is used again only after its last registration is
/// gone.
#[derive(Debug)]
pub(super) struct Streams<A> {
    places: Vec<Option<Stream<A>>>,
    free: Vec<u32>,
    by_id: HashMap<StreamId, u32>,
    /// Closed streams that have registrations left.
    closing: Vec<u32>,
    touched: Vec<u32>,
}

impl<A> Streams<A> {
    pub(super) fn new() -> Streams<A> {
        Streams {
            places: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            closing: Vec::new(),
            touched: Vec::new(),
        }
    }

    pub(super) fn open(&mut self, id: StreamId, sender: Sender<A>) {
        let stream = Stream { sender, watchers: HashMap::new(), is_closed: false, is_touched: false };
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            u32::try_from(self.places.len() - 1).expect("fewer than four billion streams fit into memory")
        });
        self.places[place as usize] = Some(stream);
        self.by_id.insert(id, place);
    }

    /// The place of an open stream.
    pub(super) fn place(&self, id: StreamId) -> Option<u32> {
        self.by_id.get(&id).copied()
    }

    /// A stream that has a place.
    pub(super) fn at(&mut self, place: u32) -> &mut Stream<A> {
        self.places[place as usize].as_mut().expect("a place that is named holds a stream")
    }

    /// An open stream that gets an item. The next [`Streams::wake`] wakes it.
    pub(super) fn touch(&mut self, place: u32) -> Option<&mut Stream<A>> {
        let stream = self.places[place as usize].as_mut().filter(|stream| !stream.is_closed)?;
        if !std::mem::replace(&mut stream.is_touched, true) {
            self.touched.push(place);
        }
        Some(stream)
    }

    /// Pushes an item that is no delivery to an open stream.
    pub(super) fn push(&mut self, place: u32, item: Item<A>) {
        if let Some(stream) = self.touch(place) {
            stream.sender.push(item);
        }
    }

    /// Wakes each stream with new items once.
    pub(super) fn wake(&mut self) {
        for place in self.touched.drain(..) {
            if let Some(stream) = &mut self.places[place as usize] {
                stream.is_touched = false;
                stream.sender.wake();
            }
        }
    }

    /// Closes a stream. Its registrations must be removed: see [`Streams::closing`].
    pub(super) fn close(&mut self, id: StreamId) {
        if let Some(place) = self.by_id.remove(&id) {
            self.at(place).is_closed = true;
            self.closing.push(place);
        }
    }

    /// A closed stream that has registrations left.
    pub(super) fn closing(&self) -> Option<u32> {
        self.closing.last().copied()
    }

    /// Frees the place of the stream that [`Streams::closing`] names.
    pub(super) fn free_closed(&mut self) {
        if let Some(place) = self.closing.pop() {
            self.places[place as usize] = None;
            self.free.push(place);
        }
    }

    /// Sends [`Item::Reset`] to all streams, and removes them.
    pub(super) fn reset(&mut self) {
        let places = std::mem::take(&mut self.places);
        for mut stream in places.into_iter().flatten() {
            stream.sender.push(Item::Reset);
            stream.sender.wake();
        }
        *self = Streams::new();
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty() && self.places.iter().all(Option::is_none)
    }
}
