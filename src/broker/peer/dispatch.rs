//! One frame: read, held against the rules, and carried out.

use crate::broker::broker::Broker;
use crate::broker::embed::handlers::{Handlers, Parts, Verdict};
use crate::broker::flow::memory::short_of_memory;
use crate::broker::flow::queues::Obstacle;
use crate::broker::flow::workers::Offer;
use crate::broker::state::connection::State;
use crate::broker::state::core::{Core, Refusal};
use crate::broker::state::keys::{ApplicationKey, ChannelKey, ConnectionKey};
use crate::broker::state::turn::fan_out_work;
use crate::proto::system::SYSTEM;
use crate::proto::{Envelope, ErrorCode, MessageType, OutFrame};

/// Whether a frame is done with, or has to be looked at again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Consumed,
    Held,
}

/// Why a message could not be served, or that it must wait.
pub(crate) enum Stop {
    Refused(Refusal),
    Held,
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Broker {
    pub(crate) fn dispatch(&mut self, from: ConnectionKey, body: &[u8]) -> Outcome {
        let Self { core, handlers, .. } = self;
        let envelope = match Envelope::parse(body) {
            Ok(envelope) => envelope,
            Err(error) => {
                core.refuse_unread(from, &error);
                return Outcome::Consumed;
            }
        };
        let Some(connection) = core.connections.get(from) else { return Outcome::Consumed };
        let served = match &connection.state {
            State::Handshake => core.connect(from, &envelope).map_err(Stop::Refused),
            State::Open(session) => {
                let application = session.application;
                core.admit(application, &envelope)
                    .map_err(Stop::Refused)
                    .and_then(|()| core.serve(handlers, from, application, &envelope, body))
            }
            State::Superseded | State::Closing | State::Lingering | State::Closed => Ok(()),
        };
        match served {
            Ok(()) => Outcome::Consumed,
            Err(Stop::Held) => Outcome::Held,
            Err(Stop::Refused(why)) => {
                core.refuse(from, &envelope, &why);
                Outcome::Consumed
            }
        }
    }
}

impl Core {
    /// Holds a message against what its connection may say.
    fn admit(&mut self, key: ApplicationKey, envelope: &Envelope<'_>) -> Result<(), Refusal> {
        let Some(application) = self.router.applications.get_mut(key) else { return Ok(()) };
        if !envelope.app_id().matches(&application.id) {
            return Err(Refusal::new(
                ErrorCode::Forbidden,
                "this connection belongs to another application; connect to the one you want to \
                 talk to",
            ));
        }
        if envelope.message_id().is_empty() {
            return Err(Refusal::new(
                ErrorCode::BadMessage,
                "message_id is empty; give every message an id of its own, such as a UUID",
            ));
        }
        application.last_activity = self.now.unix;
        Ok(())
    }

    fn serve(
        &mut self,
        handlers: &mut Handlers,
        from: ConnectionKey,
        application: ApplicationKey,
        envelope: &Envelope<'_>,
        body: &[u8],
    ) -> Result<(), Stop> {
        let message_type = envelope.message_type();
        if message_type == MessageType::Response {
            self.take_response(handlers, from, application, envelope);
            return Ok(());
        }
        if envelope.channel_id().matches(SYSTEM) {
            match message_type {
                MessageType::Request => return self.system_request(from, envelope),
                // A heartbeat.
                MessageType::Notification => return Ok(()),
                _ => {}
            }
        }
        let channel = self.resolve(from, application, envelope)?;
        let parts = Parts { envelope: *envelope, from, channel };
        match message_type {
            MessageType::Publish => self.publish(handlers, parts, body),
            MessageType::Subscribe | MessageType::Unsubscribe => {
                Ok(self.change_subscription(handlers, parts)?)
            }
            MessageType::Request => self.request(handlers, parts),
            _ => self.notify(handlers, parts),
        }
    }

    /// The channel a message names, created if need be.
    fn resolve(
        &mut self,
        from: ConnectionKey,
        application: ApplicationKey,
        envelope: &Envelope<'_>,
    ) -> Result<ChannelKey, Refusal> {
        let id = envelope.channel_id();
        let session = self.connections.get(from).and_then(|c| c.session());
        let recent = session.into_iter().flat_map(|session| session.recent.iter().flatten());
        for &key in recent {
            // A channel that was forgotten has a stale key; its name may mean a new one.
            if self.router.channels.get(key).is_some_and(|channel| id.matches(&channel.id)) {
                return Ok(key);
            }
        }
        self.find_or_create_channel(from, application, &id.decode())
    }

    pub(crate) fn find_or_create_channel(
        &mut self,
        from: ConnectionKey,
        application: ApplicationKey,
        id: &str,
    ) -> Result<ChannelKey, Refusal> {
        let known = self.router.channel(application, id);
        if known.is_none() && self.refuses_for_memory() {
            return Err(short_of_memory(ErrorCode::LimitExceeded));
        }
        let limits = &self.limits;
        let too_many = self.router.channels.len() >= limits.channels_max;
        let session = self.connections.get_mut(from).and_then(|c| c.session_mut());
        let gone = || Refusal::new(ErrorCode::NotConnected, "this connection is closing");
        let session = session.ok_or_else(gone)?;
        let key = if let Some(key) = known {
            key
        } else {
            if too_many || session.created.len() >= limits.channels_per_connection_max {
                return Err(Refusal::new(
                    ErrorCode::LimitExceeded,
                    "too many channels; use fewer, or put what varies into the payload",
                ));
            }
            let key = self.router.create_channel(application, id, self.now.unix);
            let key = key.ok_or_else(gone)?;
            self.router.retain(key);
            session.created.push(key);
            key
        };
        session.remember(key);
        Ok(key)
    }

    fn publish(
        &mut self,
        handlers: &mut Handlers,
        parts: Parts<'_>,
        body: &[u8],
    ) -> Result<(), Stop> {
        let Parts { from, channel, .. } = parts;
        let target = self.router.channels.get(channel);
        let (subscribers, congested) =
            target.map_or((0, 0), |channel| (channel.subscribers.len(), channel.congested));
        if congested > 0 {
            self.park(from, Obstacle::Subscriber(channel));
            return Err(Stop::Held);
        }
        if self.is_pausing() {
            self.pause(from);
            return Err(Stop::Held);
        }
        if !self.takes_on(from, fan_out_work(subscribers, body.len())) {
            return Err(Stop::Held);
        }
        if handlers.admit(self, parts)? == Verdict::Drop {
            return Ok(());
        }
        let frame = OutFrame::relay(body, &mut self.pool);
        if self.fan_out(channel, &frame) > 0 {
            self.note_publication(channel, self.arrived);
        }
        Ok(())
    }

    fn change_subscription(
        &mut self,
        handlers: &mut Handlers,
        parts: Parts<'_>,
    ) -> Result<(), Refusal> {
        if handlers.admit(self, parts)? == Verdict::Drop {
            return Ok(());
        }
        match parts.envelope.message_type() {
            MessageType::Subscribe => self.subscribe(parts.from, parts.channel, &parts.envelope),
            _ => self.unsubscribe(parts.from, parts.channel, &parts.envelope),
        }
    }

    fn request(&mut self, handlers: &mut Handlers, parts: Parts<'_>) -> Result<(), Stop> {
        if self.is_draining() {
            return Err(shutting_down().into());
        }
        let (envelope, from, channel) = (&parts.envelope, parts.from, parts.channel);
        let own = self.router.channels.get(channel).and_then(|found| found.handlers);
        if handlers.request(self, own, parts) {
            return Ok(());
        }
        match self.offer_to_workers(from, channel, envelope) {
            Offer::Forwarded => Ok(()),
            Offer::Refused(refusal) => Err(refusal.into()),
            Offer::Congested => {
                self.park(from, Obstacle::Worker(channel));
                Err(Stop::Held)
            }
            Offer::NoWorkers => Err(Refusal::new(
                ErrorCode::NoHandler,
                "nobody serves requests on this channel; check its name, or start the worker that \
                 serves it",
            )
            .into()),
        }
    }

    fn notify(&mut self, handlers: &mut Handlers, parts: Parts<'_>) -> Result<(), Stop> {
        let (envelope, from, channel) = (&parts.envelope, parts.from, parts.channel);
        let own = self.router.channels.get(channel).and_then(|found| found.handlers);
        if handlers.deliver(self, own, parts) {
            return Ok(());
        }
        match self.offer_to_workers(from, channel, envelope) {
            Offer::Congested => {
                self.park(from, Obstacle::Worker(channel));
                return Err(Stop::Held);
            }
            // It would be lost without a word.
            Offer::Refused(refusal) => return Err(refusal.into()),
            Offer::NoWorkers => self.counters.notifications_unhandled += 1,
            Offer::Forwarded => {}
        }
        Ok(())
    }

    /// A response answers the request its sender holds as a worker, or else goes to the
    /// channel's response handler. Nothing is ever sent back for one.
    fn take_response(
        &mut self,
        handlers: &mut Handlers,
        from: ConnectionKey,
        application: ApplicationKey,
        envelope: &Envelope<'_>,
    ) {
        if self.answer_forwarded(from, envelope) {
            return;
        }
        let channel = self.router.channel(application, &envelope.channel_id().decode());
        let handled = channel.is_some_and(|channel| {
            let key = self.router.channels.get(channel).and_then(|found| found.handlers);
            let parts = Parts { envelope: *envelope, from, channel };
            handlers.deliver(self, key, parts)
        });
        if !handled {
            self.counters.responses_ignored += 1;
        }
    }
}

pub(crate) fn shutting_down() -> Refusal {
    Refusal::new(
        ErrorCode::ShuttingDown,
        "the server is shutting down and did not look at this; connect again and send it then",
    )
}
