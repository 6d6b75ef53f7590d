//! Requests that somebody else answers, a worker or another thread, and their way back.

use std::time::Duration;

use smallvec::SmallVec;

use super::memory::REQUEST_BYTES;
use super::queues::Obstacle;
use crate::broker::limits::WORKERS_PER_CHANNEL_MAX;
use crate::broker::state::connection::Worker;
use crate::broker::state::core::{Core, Refusal};
use crate::broker::state::encoder::Address;
use crate::broker::state::keys::{ApplicationKey, ChannelKey, ConnectionKey, RequestKey};
use crate::broker::state::stats::micros;
use crate::broker::state::timers::{Due, TimerKey};
use crate::proto::{Envelope, ErrorCode, Head, Json, MessageType};

/// A request on its way: who asked, and who is to answer.
#[derive(Debug)]
pub(crate) struct PendingRequest {
    /// What the worker sees as `message_id`: nobody else can guess it.
    id: uuid::Uuid,
    requester: ConnectionKey,
    /// In the requester's list of requests.
    position: u32,
    /// The requester's own `message_id`, as JSON text; a UUID stays inline.
    message_id: SmallVec<[u8; 36]>,
    channel: ChannelKey,
    answerer: Answerer,
    arrived: Duration,
    /// When it was passed on, or its handler began.
    began: Duration,
    timer: TimerKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answerer {
    /// With the position in the worker's list of requests.
    Worker(ConnectionKey, u32),
    Thread,
}

/// What became of a message that was offered to the workers of its channel.
#[derive(Debug)]
pub(crate) enum Offer {
    Forwarded,
    NoWorkers,
    /// All of them are behind with reading; the message must wait.
    Congested,
    Refused(Refusal),
}

impl Core {
    /// Makes a connection a worker of the channel. A second time changes nothing.
    pub(crate) fn add_worker(
        &mut self,
        key: ConnectionKey,
        channel: ChannelKey,
    ) -> Result<(), Refusal> {
        let services_max = self.limits.services_per_connection_max;
        let Some(session) = self.connections.get_mut(key).and_then(|c| c.session_mut()) else {
            return Ok(());
        };
        let Some(served) = self.router.channels.get_mut(channel) else { return Ok(()) };
        let worker = session.worker.get_or_insert_default();
        if worker.channels.contains(&channel) {
            return Ok(());
        }
        if worker.channels.len() >= services_max || served.workers.len() >= WORKERS_PER_CHANNEL_MAX
        {
            return Err(Refusal::new(
                ErrorCode::LimitExceeded,
                "this connection serves too many channels, or the channel has too many workers; \
                 stop serving one first",
            ));
        }
        worker.channels.push(channel);
        served.workers.push(key);
        self.router.retain(channel);
        self.wake_parked(Obstacle::Worker(channel));
        Ok(())
    }

    /// The connection serves the channel no longer. What it has in hand it may still answer.
    pub(crate) fn remove_worker(&mut self, key: ConnectionKey, channel: ChannelKey) {
        let session = self.connections.get_mut(key).and_then(|c| c.session_mut());
        let Some(worker) = session.and_then(|session| session.worker.as_mut()) else { return };
        let Some(at) = worker.channels.iter().position(|served| *served == channel) else {
            return;
        };
        worker.channels.swap_remove(at);
        self.detach_worker(key, channel);
        self.disown_unused(key, channel);
    }

    /// The worker went away: its requests are handed back.
    pub(crate) fn retire_worker(
        &mut self,
        key: ConnectionKey,
        application: ApplicationKey,
        worker: Worker,
    ) {
        if let Some(application) = self.router.applications.get(application) {
            self.router.departed.keep_worker(&application.id, key, worker.round_trip);
        }
        let lost = Refusal::new(
            ErrorCode::WorkerLost,
            "the worker disconnected before it answered and may or may not have done the work; \
             send the request again if it may be done twice",
        );
        for request in worker.in_flight {
            self.fail_request(request, &lost);
        }
        for channel in worker.channels {
            self.detach_worker(key, channel);
        }
    }

    fn detach_worker(&mut self, key: ConnectionKey, channel: ChannelKey) {
        if let Some(channel) = self.router.channels.get_mut(channel) {
            channel.workers.retain(|worker| *worker != key);
        }
        self.wake_parked(Obstacle::Worker(channel));
        self.router.release(channel);
    }

    /// Passes a request or notification on to the least loaded worker of its channel.
    pub(crate) fn offer_to_workers(
        &mut self,
        from: ConnectionKey,
        channel: ChannelKey,
        envelope: &Envelope<'_>,
    ) -> Offer {
        let worker = match self.least_loaded_worker(channel) {
            Ok(worker) => worker,
            Err(offer) => return offer,
        };
        let message_type = envelope.message_type();
        let mut buffer = uuid::Uuid::encode_buffer();
        let mut request = None;
        let message_id = if message_type == MessageType::Request {
            let key = match self.begin_request(from, channel, envelope, Some(worker)) {
                Ok(key) => key,
                Err(refusal) => return Offer::Refused(refusal),
            };
            request = Some(key);
            let Some(pending) = self.requests.get(key) else { return Offer::NoWorkers };
            pending.id.hyphenated().encode_lower(&mut buffer)
        } else {
            envelope.message_id().raw()
        };
        let head = Head {
            message_id,
            app_id: envelope.app_id().raw(),
            channel_id: envelope.channel_id().raw(),
            message_type,
            timestamp: envelope.timestamp_str(),
            // A worker would take a frame with one for an answer to a request of its own.
            reply_to: None,
        };
        let unix = self.now.unix;
        let message = self.encoder.text(&mut self.pool, unix, head, envelope.payload_str());
        if message.body_bytes() > self.limits.frame_bytes_max {
            self.encoder.recycle(message);
            if let Some(request) = request.and_then(|request| self.end_request(request)) {
                self.router.release(request.channel);
            }
            return Offer::Refused(Refusal::new(
                ErrorCode::LimitExceeded,
                "in the form in which the worker gets it the frame is over the limit; send a \
                 little less",
            ));
        }
        self.counters.forwarded += 1;
        self.send(worker, message);
        Offer::Forwarded
    }

    fn least_loaded_worker(&mut self, key: ChannelKey) -> Result<ConnectionKey, Offer> {
        let Some(channel) = self.router.channels.get_mut(key) else {
            return Err(Offer::NoWorkers);
        };
        let workers = &channel.workers;
        if workers.is_empty() {
            return Err(Offer::NoWorkers);
        }
        let first = channel.next_worker % workers.len();
        let in_turn = (first..workers.len()).chain(0..first).map(|at| (at, workers[at]));
        let chosen = in_turn
            .filter_map(|(at, key)| {
                let connection = self.connections.get(key)?;
                let session = connection.session().filter(|_| connection.congested.is_none())?;
                Some((session.requests_in_flight(), at, key))
            })
            // The first of equals wins, and the next search starts behind it.
            .min_by_key(|(in_flight, _, _)| *in_flight);
        let (_, at, worker) = chosen.ok_or(Offer::Congested)?;
        channel.next_worker = at + 1;
        Ok(worker)
    }

    /// Notes a request that is answered later: by `worker`, or by another thread.
    pub(crate) fn begin_request(
        &mut self,
        from: ConnectionKey,
        channel: ChannelKey,
        envelope: &Envelope<'_>,
        worker: Option<ConnectionKey>,
    ) -> Result<RequestKey, Refusal> {
        let full = self.requests.len() >= self.limits.pending_max;
        let requester = self.connections.get_mut(from).and_then(|c| c.session_mut());
        let position = match requester {
            Some(session)
                if !full && session.requests.len() < self.limits.pending_per_connection_max =>
            {
                session.requests.len()
            }
            _ => {
                return Err(Refusal::new(
                    ErrorCode::LimitExceeded,
                    "too many requests are waiting for their answers; send the next when one has \
                     been answered",
                ));
            }
        };
        let message_id = SmallVec::from_slice(envelope.message_id().raw().as_bytes());
        let message_id_bytes = spilled_bytes(&message_id);
        self.budget.tables_bytes += REQUEST_BYTES + message_id_bytes;
        let random = self.encoder.fresh_id();
        let deadline = self.deadline_in(self.limits.request_timeout);
        let (timers, arrived) = (&mut self.timers, self.arrived);
        let began = self.latency.begin_handler(self.now.monotonic);
        let in_flight = worker.and_then(|worker| self.connections.get_mut(worker));
        let in_flight = in_flight.and_then(|c| c.session_mut());
        let in_flight =
            in_flight.map(|session| &mut session.worker.get_or_insert_default().in_flight);
        let request = self.requests.insert_with(|key| PendingRequest {
            id: with_index(random, key.index() as u32),
            requester: from,
            position: position as u32,
            message_id,
            channel,
            answerer: match (worker, in_flight) {
                (Some(worker), Some(in_flight)) => {
                    in_flight.push(key);
                    Answerer::Worker(worker, (in_flight.len() - 1) as u32)
                }
                _ => Answerer::Thread,
            },
            arrived,
            began,
            timer: timers.arm(deadline, Due::Request(key)),
        });
        if let Some(session) = self.connections.get_mut(from).and_then(|c| c.session_mut()) {
            session.requests.push(request);
            session.message_id_bytes += message_id_bytes;
        }
        self.router.retain(channel);
        Ok(request)
    }

    /// Passes a worker's response on, if `from` holds the request that it answers.
    /// Returns whether it does.
    pub(crate) fn answer_forwarded(
        &mut self,
        from: ConnectionKey,
        response: &Envelope<'_>,
    ) -> bool {
        let Some(reply_to) = response.reply_to() else { return false };
        let Ok(id) = uuid::Uuid::try_parse(reply_to.raw()) else { return false };
        let Some((key, pending)) = self.requests.at(index_of(id)) else { return false };
        let holds = matches!(pending.answerer, Answerer::Worker(worker, _) if worker == from);
        if !holds || pending.id != id {
            return false;
        }
        let Some(request) = self.end_request(key) else { return false };
        self.record_round_trip(from, request.began);
        let message_id = response.message_id().raw();
        let (timestamp, payload) = (response.timestamp_str(), response.payload_str());
        self.deliver_answer(&request, message_id, timestamp, payload);
        true
    }

    /// Answers a deferred request. Too late is no fault: the requester was told already.
    pub(crate) fn answer_deferred(
        &mut self,
        key: RequestKey,
        answer: Result<Json<'static>, Refusal>,
    ) {
        match answer {
            Ok(payload) => {
                if let Some(request) = self.end_request(key) {
                    self.deliver_answer(&request, "", "", payload.as_str());
                }
            }
            Err(refusal) => self.fail_request(key, &refusal),
        }
    }

    pub(crate) fn fail_request(&mut self, key: RequestKey, why: &Refusal) {
        let Some(request) = self.end_request(key) else { return };
        let Some((app_id, channel_id)) = self.address_of(&request) else { return };
        let address = Address { app_id: &app_id, channel_id: &channel_id };
        let reply_to = text(&request.message_id);
        let requester = self.connections.get(request.requester);
        if requester.is_some_and(crate::broker::state::connection::Connection::takes_messages) {
            self.send_error(request.requester, address, Some(reply_to), why);
            let (arrived, began) = (request.arrived, request.began);
            self.note_answer(request.channel, arrived, began, self.now.monotonic);
        }
        self.router.release(request.channel);
    }

    /// A request was not answered in time. Its worker's answer is ignored from now on.
    pub(crate) fn expire_request(&mut self, key: RequestKey) {
        let after = humane(self.limits.request_timeout);
        let text = format!(
            "nobody answered this request within {after}; send it again, or look at its worker"
        );
        self.fail_request(key, &Refusal::new(ErrorCode::Timeout, text));
    }

    fn deliver_answer(
        &mut self,
        request: &PendingRequest,
        message_id: &str,
        timestamp: &str,
        payload: &str,
    ) {
        if let Some((app_id, channel_id)) = self.address_of(request) {
            let head = Head {
                message_id,
                app_id: &app_id,
                channel_id: &channel_id,
                message_type: MessageType::Response,
                timestamp,
                reply_to: Some(text(&request.message_id)),
            };
            let unix = self.now.unix;
            let message = self.encoder.text(&mut self.pool, unix, head, payload);
            if message.body_bytes() > self.limits.frame_bytes_max {
                self.encoder.recycle(message);
                let address = Address { app_id: &app_id, channel_id: &channel_id };
                let reply_to = Some(text(&request.message_id));
                self.send_error(request.requester, address, reply_to, &answer_too_large());
            } else if !self.send(request.requester, message) {
                self.counters.answers_undeliverable += 1;
            }
            let (arrived, began) = (request.arrived, request.began);
            self.note_answer(request.channel, arrived, began, self.now.monotonic);
        }
        self.router.release(request.channel);
    }

    /// Takes a request off all books but its channel's reference.
    fn end_request(&mut self, key: RequestKey) -> Option<PendingRequest> {
        let request = self.requests.remove(key)?;
        self.timers.disarm(request.timer);
        if let Answerer::Worker(worker, position) = request.answerer {
            self.take_from_worker(worker, position as usize);
        }
        self.budget.tables_bytes -= REQUEST_BYTES + spilled_bytes(&request.message_id);
        self.take_from_requester(&request);
        Some(request)
    }

    /// Nobody waits for the answer any more.
    pub(crate) fn abandon_request(&mut self, key: RequestKey) {
        if let Some(request) = self.end_request(key) {
            self.counters.answers_undeliverable += 1;
            self.router.release(request.channel);
        }
    }

    fn take_from_requester(&mut self, request: &PendingRequest) {
        let requester = self.connections.get_mut(request.requester);
        let Some(session) = requester.and_then(|c| c.session_mut()) else { return };
        let position = request.position as usize;
        session.requests.swap_remove(position);
        session.message_id_bytes -= spilled_bytes(&request.message_id);
        let moved = session.requests.get(position).copied();
        if let Some(moved) = moved.and_then(|key| self.requests.get_mut(key)) {
            moved.position = request.position;
        }
        self.consider_closing(request.requester);
    }

    fn take_from_worker(&mut self, worker: ConnectionKey, position: usize) {
        let session = self.connections.get_mut(worker).and_then(|c| c.session_mut());
        let Some(duties) = session.and_then(|session| session.worker.as_mut()) else { return };
        duties.in_flight.swap_remove(position);
        let moved = duties.in_flight.get(position).copied();
        if let Some(moved) = moved.and_then(|key| self.requests.get_mut(key)) {
            moved.answerer = Answerer::Worker(worker, position as u32);
        }
        self.consider_closing(worker);
    }

    fn address_of(
        &self,
        request: &PendingRequest,
    ) -> Option<(std::sync::Arc<str>, std::sync::Arc<str>)> {
        let (application, channel) = self.router.names(request.channel)?;
        Some((application.id_json.clone(), channel.id_json.clone()))
    }
}

fn answer_too_large() -> Refusal {
    Refusal::new(
        ErrorCode::HandlerFailed,
        "the answer makes a larger frame than the server allows; ask for less, or raise its \
         --max-frame-bytes",
    )
}

/// What an id that is no UUID takes beside its request.
fn spilled_bytes(message_id: &SmallVec<[u8; 36]>) -> usize {
    if message_id.spilled() { message_id.capacity() } else { 0 }
}

/// The raw text of an id that was read as part of a valid document.
fn text(message_id: &[u8]) -> &str {
    std::str::from_utf8(message_id).unwrap_or_default()
}

/// The last four bytes lead back to the request without a look-up; the rest stays random.
fn with_index(random: uuid::Uuid, index: u32) -> uuid::Uuid {
    let mut bytes = random.into_bytes();
    bytes[12..].copy_from_slice(&index.to_be_bytes());
    uuid::Uuid::from_bytes(bytes)
}

fn index_of(id: uuid::Uuid) -> usize {
    let bytes = id.into_bytes();
    u32::from_be_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]) as usize
}

fn humane(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{} ms", micros(duration) / 1_000)
    }
}
