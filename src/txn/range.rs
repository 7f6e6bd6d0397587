//! Answers to Range and RangeStream from one immutable state.

use super::view::View;
use crate::core::{KeyVersion, State};
use crate::error::EtcdError;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};
use crate::proto::mvccpb::KeyValue;
use crate::types::{KeyRange, Revision};
use bytes::Bytes;
use std::cmp::Ordering;
use std::sync::Arc;

/// A message of a RangeStream ends once it holds this many bytes of keys and values, so the largest one is
/// this plus one pair. Large enough that the cost of a message vanishes, and small enough that a slow client
/// holds little memory.
const CHUNK_BYTES: usize = if cfg!(test) { 100 } else { 1 << 20 };

/// Approximate bytes of a pair in a message, besides its key and value.
const PAIR_OVERHEAD: usize = 32;

/// Most keys that a range reads within a fraction of a millisecond.
const SHORT_KEYS: usize = if cfg!(test) { 4 } else { 2000 };

/// The wire form of a stored version.
pub(crate) fn key_value(version: &KeyVersion) -> KeyValue {
    let (key, value) = version.to_bytes();
    KeyValue {
        key,
        create_revision: version.create_revision().0,
        mod_revision: version.mod_revision().0,
        version: version.version(),
        value,
        lease: version.lease().0,
    }
}

/// A header with the revision alone; `api` fills in the ids.
pub(super) fn header(revision: Revision) -> ResponseHeader {
    ResponseHeader { revision: revision.0, ..ResponseHeader::default() }
}

/// Whether a request wants keys in the order in which they are stored. With an order of `NONE` the target
/// does not matter.
pub(super) fn is_default_order(request: &RangeRequest) -> bool {
    request.sort_order == SortOrder::None as i32
        || (request.sort_order == SortOrder::Ascend as i32 && request.sort_target == SortTarget::Key as i32)
}

pub(super) fn has_filters(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

/// The revision that a stand-alone request reads: the newest for 0 and anything below.
fn read_revision(state: &State, request: &RangeRequest) -> Result<Revision, EtcdError> {
    let wanted = Revision(request.revision);
    if wanted > state.revision {
        return Err(EtcdError::FutureRevision);
    }
    let revision = if wanted.0 <= 0 { state.revision } else { wanted };
    if state.is_compacted(revision) {
        return Err(EtcdError::Compacted);
    }
    Ok(revision)
}

/// Answers a Range that [`check_range`](super::check_range) has passed. The header holds the state's revision
/// alone.
///
/// The cost of a limited page is that of its pairs. The count costs two descents of the index at the newest
/// revision (see [`State::count`]).
///
/// # Errors
/// [`EtcdError::FutureRevision`], [`EtcdError::Compacted`].
pub(crate) fn range(state: &State, request: &RangeRequest) -> Result<RangeResponse, EtcdError> {
    let view = View::new(state, read_revision(state, request)?);
    Ok(read(&view, request, state.revision))
}

/// Whether reading all these ranges may take a millisecond or more.
pub(crate) fn is_long<'a>(state: &State, mut requests: impl Iterator<Item = &'a RangeRequest>) -> bool {
    let mut left = SHORT_KEYS;
    requests.any(|request| match left.checked_sub(most_keys(state, request)) {
        Some(rest) => {
            left = rest;
            false
        }
        None => true,
    })
}

/// About the most keys that a Range reads: for an older revision the number of keys that live now.
fn most_keys(state: &State, request: &RangeRequest) -> usize {
    if request.range_end.is_empty() || (request.count_only && request.revision == 0) {
        return 1;
    }
    match usize::try_from(request.limit) {
        Ok(limit @ 1..=SHORT_KEYS) if cuts_early(request) && !request.count_only => limit,
        _ => state.index.count(&KeyRange::from_wire(request.key.clone(), &request.range_end)),
    }
}

/// Whether reading ends at the limit. A sorted response needs the whole range first. Without an order, but
/// with another target than the key, etcd applies the limit first and then sorts, unless there are filters.
fn cuts_early(request: &RangeRequest) -> bool {
    is_default_order(request) && (request.sort_target == SortTarget::Key as i32 || !has_filters(request))
}

/// Reads a range of a view; `current` goes into the header.
pub(super) fn read(view: &View<'_>, request: &RangeRequest, current: Revision) -> RangeResponse {
    let range = KeyRange::from_wire(request.key.clone(), &request.range_end);
    let mut response = RangeResponse { header: Some(header(current)), ..RangeResponse::default() };
    if request.count_only {
        response.count = view.count(&range) as i64;
        return response;
    }
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
    let stop_above = limit.filter(|_| cuts_early(request)).unwrap_or(usize::MAX);

    let mut walked = 0;
    let mut stopped = false;
    let mut found: Vec<&KeyVersion> = Vec::new();
    view.visit(&range, |version| {
        walked += 1;
        if passes(version, request) {
            found.push(version);
            stopped = found.len() > stop_above;
        }
        !stopped
    });
    response.count = if stopped { view.count(&range) } else { walked } as i64;

    sort(&mut found, request);
    if let Some(limit) = limit
        && found.len() > limit
    {
        found.truncate(limit);
        response.more = true;
    }
    response.kvs = found.into_iter().map(|version| shown(version, request)).collect();
    response
}

fn passes(version: &KeyVersion, request: &RangeRequest) -> bool {
    let within = |revision: Revision, min: i64, max: i64| {
        (min == 0 || revision.0 >= min) && (max == 0 || revision.0 <= max)
    };
    within(version.mod_revision(), request.min_mod_revision, request.max_mod_revision)
        && within(version.create_revision(), request.min_create_revision, request.max_create_revision)
}

/// Sorts pairs that are in key order. The sort is stable, also when descending: etcd promises nothing for
/// equal targets, but sorts a few of them so.
fn sort(found: &mut [&KeyVersion], request: &RangeRequest) {
    let target = SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key);
    if target == SortTarget::Key && is_default_order(request) {
        return;
    }
    let order = |a: &KeyVersion, b: &KeyVersion| -> Ordering {
        match target {
            SortTarget::Key => a.key().cmp(b.key()),
            SortTarget::Version => a.version().cmp(&b.version()),
            SortTarget::Create => a.create_revision().cmp(&b.create_revision()),
            SortTarget::Mod => a.mod_revision().cmp(&b.mod_revision()),
            SortTarget::Value => a.value().cmp(b.value()),
        }
    };
    if request.sort_order == SortOrder::Descend as i32 {
        found.sort_by(|a, b| order(b, a));
    } else {
        found.sort_by(|a, b| order(a, b));
    }
}

/// The pair of a version. With `keys_only` etcd 3.7 answers from its index, which has no leases, unless it
/// reads values anyway.
fn shown(version: &KeyVersion, request: &RangeRequest) -> KeyValue {
    let mut pair = key_value(version);
    if request.keys_only {
        pair.value = Bytes::new();
        if request.sort_target != SortTarget::Value as i32 {
            pair.lease = 0;
        }
    }
    pair
}

/// The messages of a RangeStream from one pinned state. Merged field by field they are the response to the
/// same Range.
///
/// Ends after the message with the header, and there always is one. Compactions do not affect the pinned
/// state.
#[derive(Debug)]
pub(crate) struct RangeStream {
    state: Arc<State>,
    request: RangeRequest,
    revision: Revision,
    range: KeyRange,
    /// The rest of the range.
    rest: Option<KeyRange>,
    /// Pairs still to deliver; `None` without a limit.
    left: Option<usize>,
    delivered: usize,
}

impl RangeStream {
    /// Starts a stream for a request that [`check_range_stream`](super::check_range_stream) has passed.
    ///
    /// # Errors
    /// As [`range`].
    pub(crate) fn new(state: Arc<State>, request: RangeRequest) -> Result<RangeStream, EtcdError> {
        let revision = read_revision(&state, &request)?;
        let range = KeyRange::from_wire(request.key.clone(), &request.range_end);
        let left = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
        Ok(RangeStream { state, revision, rest: Some(range.clone()), range, left, delivered: 0, request })
    }
}

impl Iterator for RangeStream {
    type Item = RangeResponse;

    fn next(&mut self) -> Option<RangeResponse> {
        let rest = self.rest.take()?;
        let view = View::new(&self.state, self.revision);
        if self.request.count_only {
            return Some(read(&view, &self.request, self.state.revision));
        }
        let mut size = 0;
        let mut found: Vec<&KeyVersion> = Vec::new();
        let mut next = None;
        // The first pair that does not fit shows that there is more, so that no empty message follows.
        view.visit(&rest, |version| {
            if size >= CHUNK_BYTES || self.left.is_some_and(|left| found.len() == left) {
                next = Some(Bytes::copy_from_slice(version.key()));
                return false;
            }
            size += version.key().len() + version.value().len() + PAIR_OVERHEAD;
            found.push(version);
            true
        });
        self.delivered += found.len();
        self.left = self.left.map(|left| left - found.len());
        sort(&mut found, &self.request);
        let kvs = found.into_iter().map(|version| shown(version, &self.request)).collect();
        let is_cut = next.is_some();
        if let (Some(start), None | Some(1..), KeyRange::Span { end, .. }) = (next, self.left, rest) {
            self.rest = Some(KeyRange::Span { start, end });
            return Some(RangeResponse { kvs, ..RangeResponse::default() });
        }
        let count = if is_cut { view.count(&self.range) } else { self.delivered };
        Some(RangeResponse {
            header: Some(header(self.state.revision)),
            kvs,
            more: is_cut,
            count: count as i64,
        })
    }
}
