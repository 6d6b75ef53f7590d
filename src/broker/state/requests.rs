//! Requests that a worker or another thread has to answer.

use std::time::Duration;

use slab::Slab;
use smallvec::SmallVec;
use uuid::Uuid;

use super::arena::Arena;
use super::budget::{Budget, REQUEST_BYTES};
use super::calls::Call;
use super::connection::{Connections, Session};
use super::keys::{ChannelKey, ConnectionKey, RequestKey, RequestKind};
use super::request_id::RequestId;
use super::router::Router;
use super::timeouts::Timeouts;
use super::timers::Moment;
use crate::proto::{JsonStr, SharedFrame};

/// All such requests.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    table: Arena<RequestKind, PendingRequest>,
    /// The frames for the workers of those that are kept.
    kept: Slab<SharedFrame>,
    /// The extras of those that have some.
    calls: Slab<Call>,
    timeouts: Timeouts<RequestKind>,
}

/// Places for frames that are kept without a frame.
const FREE_FRAMES_MAX: usize = 64;

/// A request in flight, with its requester and its worker or thread.
#[derive(Debug)]
pub(crate) struct PendingRequest {
    /// The `message_id` that the worker gets. Nobody else can guess it.
    pub(crate) id: RequestId,
    pub(crate) requester: ConnectionKey,
    /// The position in the requester's list of requests.
    position: u32,
    /// The requester's own `message_id`, as JSON text; a UUID is kept inline.
    message_id: SmallVec<[u8; 36]>,
    pub(crate) channel: ChannelKey,
    pub(crate) answerer: Answerer,
    call: CallPlace,
    pub(crate) arrived: Moment,
    /// The time at which it was forwarded, or its handler began.
    pub(crate) began: Moment,
}

/// The index of a request's extras, if it has some, and whether a part of its stream was passed on. In
/// four bytes, a request is copied without a call.
#[derive(Clone, Copy, Debug)]
struct CallPlace(u32);

impl CallPlace {
    const NONE: Self = Self(u32::MAX);
    const BEGUN: u32 = 1 << 31;

    fn index(self) -> Option<usize> {
        (self.0 != Self::NONE.0).then_some((self.0 & !Self::BEGUN) as usize)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answerer {
    /// A worker, with the position in its list of requests.
    Worker(ConnectionKey, u32),
    /// Not known yet: the request is kept until a worker has room. The index is that of its frame.
    Kept(u32),
    Thread,
}

/// A new request.
pub(crate) struct NewRequest<'a> {
    pub(crate) random_id: Uuid,
    pub(crate) from: ConnectionKey,
    pub(crate) message_id: &'a str,
    pub(crate) channel: ChannelKey,
    /// `None` for another thread, and for a request that is going to be kept.
    pub(crate) worker: Option<ConnectionKey>,
    pub(crate) arrived: Moment,
    pub(crate) began: Moment,
    /// `None` if it waits as long as it takes.
    pub(crate) deadline: Option<Duration>,
}

impl Requests {
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Returns the number of requests that are kept until a worker has room.
    pub(crate) fn kept(&self) -> usize {
        self.kept.len()
    }

    pub(crate) fn get(&self, key: RequestKey) -> Option<&PendingRequest> {
        self.table.get(key)
    }

    pub(crate) fn keys(&self) -> Vec<RequestKey> {
        self.table.keys()
    }

    /// Enters a request into the lists of its requester, its worker and its channel.
    pub(crate) fn begin(
        &mut self,
        new: &NewRequest<'_>,
        connections: &mut Connections,
        router: &mut Router,
        budget: &mut Budget,
    ) -> Option<RequestKey> {
        let message_id = SmallVec::from_slice(new.message_id.as_bytes());
        let message_id_bytes = spilled_bytes(&message_id);
        let position = connections.session(new.from)?.requests.len() as u32;
        let in_flight = new.worker.and_then(|worker| connections.session_mut(worker));
        let in_flight =
            in_flight.map(|session| &mut session.worker.get_or_insert_default().in_flight);
        let request = self.table.insert_with(|key| PendingRequest {
            id: RequestId::new(new.random_id, key.index() as u32),
            requester: new.from,
            position,
            message_id,
            channel: new.channel,
            call: CallPlace::NONE,
            answerer: match (new.worker, in_flight) {
                (Some(worker), Some(in_flight)) => {
                    in_flight.push(key);
                    Answerer::Worker(worker, (in_flight.len() - 1) as u32)
                }
                _ => Answerer::Thread,
            },
            arrived: new.arrived,
            began: new.began,
        });
        if let Some(deadline) = new.deadline {
            self.timeouts.begin(deadline, request);
        }
        if let Some(session) = connections.session_mut(new.from) {
            session.requests.push(request);
            session.request_bytes += message_id_bytes;
            if session.calls.is_some() {
                enter_index(session, new.message_id, request, budget);
            }
        }
        budget.tables_bytes += REQUEST_BYTES + message_id_bytes;
        if let Some(channel) = router.channels.get_mut(new.channel) {
            channel.references += 1;
            if let Some(worker) = new.worker {
                channel.service.note_begin(worker);
            }
        }
        Some(request)
    }

    /// Keeps the frame of a request for which no worker has room.
    pub(crate) fn keep(
        &mut self,
        key: RequestKey,
        frame: SharedFrame,
        connections: &mut Connections,
        router: &mut Router,
    ) {
        let Some(request) = self.table.get_mut(key) else { return };
        let bytes = frame.capacity();
        request.answerer = Answerer::Kept(self.kept.insert(frame) as u32);
        if let Some(session) = connections.session_mut(request.requester) {
            session.request_bytes += bytes;
        }
        if let Some(channel) = router.channels.get_mut(request.channel) {
            channel.service.kept.push_back(key, bytes);
        }
    }

    /// Gives a kept request to a connection that is a worker. Returns its frame.
    pub(crate) fn hand_out(
        &mut self,
        key: RequestKey,
        worker: ConnectionKey,
        began: Moment,
        connections: &mut Connections,
        router: &mut Router,
    ) -> Option<SharedFrame> {
        connections.session(worker)?.worker.as_ref()?;
        let frame = self.take_from_kept(key, connections, router)?;
        let duties = connections.session_mut(worker)?.worker.as_mut()?;
        let request = self.table.get_mut(key)?;
        request.answerer = Answerer::Worker(worker, duties.in_flight.len() as u32);
        request.began = began;
        duties.in_flight.push(key);
        if let Some(channel) = router.channels.get_mut(request.channel) {
            channel.service.note_begin(worker);
        }
        Some(frame)
    }

    /// Gives a request to another worker, because its own was lost.
    pub(crate) fn reassign(
        &mut self,
        key: RequestKey,
        worker: ConnectionKey,
        began: Moment,
        connections: &mut Connections,
        router: &mut Router,
    ) {
        let Some(request) = self.table.get_mut(key) else { return };
        let Some(session) = connections.session_mut(worker) else { return };
        let duties = session.worker.get_or_insert_default();
        request.answerer = Answerer::Worker(worker, duties.in_flight.len() as u32);
        request.began = began;
        duties.in_flight.push(key);
        if let Some(channel) = router.channels.get_mut(request.channel) {
            channel.service.note_begin(worker);
        }
    }

    /// Gives a request its extras.
    pub(crate) fn attach(&mut self, key: RequestKey, call: Call) {
        if let Some(request) = self.table.get_mut(key) {
            request.call = CallPlace(self.calls.insert(call) as u32);
        }
    }

    /// Takes the extras of a request that is over.
    #[cold]
    pub(crate) fn detach(&mut self, place: usize) -> Option<Call> {
        let call = self.calls.try_remove(place);
        if self.calls.is_empty() && self.calls.capacity() > FREE_FRAMES_MAX {
            self.calls = Slab::new();
        }
        call
    }

    pub(crate) fn call(&self, request: &PendingRequest) -> Option<&Call> {
        self.calls.get(request.call.index()?)
    }

    /// Returns a request and its extras.
    pub(crate) fn with_call(
        &mut self,
        key: RequestKey,
    ) -> Option<(&mut PendingRequest, &mut Call)> {
        let request = self.table.get_mut(key)?;
        let call = self.calls.get_mut(request.call.index()?)?;
        Some((request, call))
    }

    /// Makes the index of a connection's requests by their ids, if it has none.
    pub(crate) fn index(
        &self,
        from: ConnectionKey,
        connections: &mut Connections,
        budget: &mut Budget,
    ) {
        let Some(session) = connections.session_mut(from) else { return };
        if session.calls.is_some() {
            return;
        }
        session.calls = Some(Box::default());
        for key in std::mem::take(&mut session.requests) {
            session.requests.push(key);
            if let Some(request) = self.table.get(key) {
                enter_index(session, request.id_text(), key, budget);
            }
        }
    }

    /// Removes a request from the timeouts of the same length, if it is the first of them: its stream
    /// has gone on meanwhile.
    pub(crate) fn leave_timeouts(&mut self, key: RequestKey) {
        self.timeouts.leave(key, |key| self.table.get(key).is_some());
    }

    /// Returns the number of requests of a channel among some.
    pub(crate) fn count_of(&self, channel: ChannelKey, requests: &[RequestKey]) -> u32 {
        let requests = requests.iter().filter_map(|key| self.table.get(*key));
        requests.filter(|request| request.channel == channel).count() as u32
    }

    /// Finds the request with this id.
    pub(crate) fn find(&self, id: &str) -> Option<(RequestKey, &PendingRequest)> {
        let id = RequestId::parse(id)?;
        self.table.at(id.index()).filter(|(_, request)| request.id == id)
    }

    /// Returns the memory of a request's frame, if that is kept until a worker has room.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn kept_bytes(&self, request: &PendingRequest) -> Option<usize> {
        let Answerer::Kept(index) = request.answerer else { return None };
        Some(self.kept.get(index as usize)?.capacity())
    }

    /// Checks the timeouts of the same length: they are in order, and no more of them are over than may
    /// be, of which none is the first one.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn check_timeouts(&self, live: usize) -> Result<(), String> {
        self.timeouts.check_agreement(live, |key| self.table.get(key).is_some())
    }

    /// Returns the time at which the next request times out.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.timeouts.next_deadline()
    }

    /// Returns a request that has timed out, if there is one.
    pub(crate) fn overdue(&self, now: Duration) -> Option<RequestKey> {
        self.timeouts.overdue(now)
    }

    /// Removes a request from all lists. Its channel may be removed by that.
    pub(crate) fn end(
        &mut self,
        key: RequestKey,
        connections: &mut Connections,
        router: &mut Router,
        budget: &mut Budget,
    ) -> Option<PendingRequest> {
        if !self.kept.is_empty() {
            self.take_from_kept(key, connections, router);
        }
        let request = self.table.remove(key)?;
        self.timeouts.note_end(self.table.len(), |key| self.table.get(key).is_some());
        budget.tables_bytes -= REQUEST_BYTES + spilled_bytes(&request.message_id);
        // One that has left is about to be removed from its channels, and not searched for there by
        // each of its requests.
        let worker = self.take_from_worker(&request, connections);
        self.take_from_requester(key, &request, connections, budget);
        router.release_from(request.channel, worker);
        Some(request)
    }

    /// Takes the frame of a request, if that is kept.
    #[cold]
    fn take_from_kept(
        &mut self,
        key: RequestKey,
        connections: &mut Connections,
        router: &mut Router,
    ) -> Option<SharedFrame> {
        let request = self.table.get(key)?;
        let (requester, channel) = (request.requester, request.channel);
        let Answerer::Kept(index) = request.answerer else { return None };
        let frame = self.kept.remove(index as usize);
        if self.kept.is_empty() && self.kept.capacity() > FREE_FRAMES_MAX {
            self.kept = Slab::new();
        }
        let bytes = frame.capacity();
        if let Some(session) = connections.session_mut(requester) {
            session.request_bytes -= bytes;
        }
        if let Some(channel) = router.channels.get_mut(channel) {
            let is_kept =
                |other| other != key && self.table.get(other).is_some_and(PendingRequest::is_kept);
            channel.service.kept.note_end(bytes, is_kept);
        }
        Some(frame)
    }

    /// Takes a request from its worker, and returns that, unless it has left.
    fn take_from_worker(
        &mut self,
        request: &PendingRequest,
        connections: &mut Connections,
    ) -> Option<ConnectionKey> {
        let Answerer::Worker(worker, position) = request.answerer else { return None };
        let duties = connections.session_mut(worker)?.worker.as_mut()?;
        duties.in_flight.swap_remove(position as usize);
        let moved = duties.in_flight.get(position as usize).copied();
        if let Some(moved) = moved.and_then(|key| self.table.get_mut(key)) {
            moved.answerer = Answerer::Worker(worker, position);
        }
        Some(worker)
    }

    fn take_from_requester(
        &mut self,
        key: RequestKey,
        request: &PendingRequest,
        connections: &mut Connections,
        budget: &mut Budget,
    ) {
        let Some(session) = connections.session_mut(request.requester) else { return };
        let position = request.position as usize;
        session.requests.swap_remove(position);
        session.request_bytes -= spilled_bytes(&request.message_id);
        let moved = session.requests.get(position).copied();
        if let Some(moved) = moved.and_then(|key| self.table.get_mut(key)) {
            moved.position = request.position;
        }
        if session.calls.is_some() {
            leave_index(session, request, key, budget);
        }
    }
}

impl PendingRequest {
    /// Returns the requester's `message_id`, as JSON text without the quotes.
    pub(crate) fn message_id(&self) -> &[u8] {
        &self.message_id
    }

    /// Returns the memory of its `message_id`, unless that is stored inside the entry.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn id_bytes(&self) -> usize {
        spilled_bytes(&self.message_id)
    }

    fn id_text(&self) -> &str {
        std::str::from_utf8(&self.message_id).unwrap_or_default()
    }

    /// Returns the place of its extras, if it has some.
    #[inline]
    pub(crate) fn call_place(&self) -> Option<usize> {
        self.call.index()
    }

    /// Returns whether it has extras.
    #[inline]
    pub(crate) fn has_call(&self) -> bool {
        self.call.0 != CallPlace::NONE.0
    }

    /// Returns whether a part of its stream was passed on.
    #[inline]
    pub(crate) fn has_begun(&self) -> bool {
        self.has_call() && self.call.0 & CallPlace::BEGUN != 0
    }

    /// Records that a part of its stream was passed on.
    pub(crate) fn note_part(&mut self) {
        self.call.0 |= CallPlace::BEGUN;
    }

    /// Returns whether no worker has got it yet.
    pub(crate) fn is_kept(&self) -> bool {
        matches!(self.answerer, Answerer::Kept(_))
    }

    pub(crate) fn is_with(&self, worker: ConnectionKey) -> bool {
        matches!(self.answerer, Answerer::Worker(answerer, _) if answerer == worker)
    }
}

/// Returns the memory of an id that is too long to be stored inside its request.
fn spilled_bytes(message_id: &SmallVec<[u8; 36]>) -> usize {
    if message_id.spilled() { message_id.capacity() } else { 0 }
}

#[cold]
fn enter_index(session: &mut Session, id: &str, request: RequestKey, budget: &mut Budget) {
    let Some(index) = &mut session.calls else { return };
    budget.tables_bytes -= index.bytes();
    index.insert(&JsonStr::new(id, id.contains('\\')).decode(), request);
    budget.tables_bytes += index.bytes();
}

#[cold]
fn leave_index(
    session: &mut Session,
    request: &PendingRequest,
    key: RequestKey,
    budget: &mut Budget,
) {
    let Some(index) = &mut session.calls else { return };
    let id = request.id_text();
    budget.tables_bytes -= index.bytes();
    index.remove(&JsonStr::new(id, id.contains('\\')).decode(), key);
    budget.tables_bytes += index.bytes();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_moved_without_a_call() {
        let bytes = size_of::<Option<PendingRequest>>();
        assert!(bytes <= 128, "{bytes} bytes");
    }
}
