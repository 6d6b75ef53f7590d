//! The handlers and hooks of the process, by channel, and the calls to them.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::changes::{self, Change, ConnectionHook, DeliveryHandler, Filter, RequestHandler};
use super::context::Context;
use super::request::{Dealt, Parts, Request, Verdict};
use super::responder::Remote;
use crate::broker::flow::topic::verdicts;
use crate::broker::flow::{answers, measuring};
use crate::broker::state::core::Core;
use crate::broker::state::events::ConnectionInfo;
use crate::broker::state::keys::{ChannelKey, ConnectionKey};
use crate::broker::state::refusal::{self, Refusal};
use crate::broker::state::topic::verdicts::Undecided;
use crate::proto::frame::HEADER_BYTES;
use crate::proto::{Envelope, Head, MessageType, OutFrame, escape};

/// The handlers of one channel, by message type.
#[derive(Default)]
struct ChannelHandlers {
    request: Option<RequestHandler>,
    notification: Option<DeliveryHandler>,
    response: Option<DeliveryHandler>,
}

impl ChannelHandlers {
    fn of(&mut self, message_type: MessageType) -> Option<&mut DeliveryHandler> {
        match message_type {
            MessageType::Response => self.response.as_mut(),
            _ => self.notification.as_mut(),
        }
    }
}

impl fmt::Debug for ChannelHandlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelHandlers")
            .field("request", &self.request.is_some())
            .field("notification", &self.notification.is_some())
            .field("response", &self.response.is_some())
            .finish()
    }
}

/// All handlers. They are separate from the core, so that a handler can borrow the core.
pub(crate) struct Handlers {
    /// The handlers by the index of the channel's key. Channels without handlers have `None`.
    channels: Vec<Option<(ChannelKey, ChannelHandlers)>>,
    /// The handlers of channels that have none of their own.
    fallback: ChannelHandlers,
    filter: Option<Filter>,
    connected: Option<ConnectionHook>,
    disconnected: Option<ConnectionHook>,
    /// The mailbox for answers that come later.
    pub(crate) remote: Arc<Remote>,
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers").field("channels", &self.channels).finish_non_exhaustive()
    }
}

impl Handlers {
    pub(crate) fn new(remote: Arc<Remote>) -> Self {
        Self {
            channels: Vec::new(),
            fallback: ChannelHandlers::default(),
            filter: None,
            connected: None,
            disconnected: None,
            remote,
        }
    }

    /// Makes the changes that were requested since a handler last ran.
    #[inline]
    pub(crate) fn catch_up(&mut self, core: &mut Core) {
        if !core.agenda.handler_changes.is_empty() {
            self.make_all(core);
        }
    }

    #[cold]
    fn make_all(&mut self, core: &mut Core) {
        changes::take(core).for_each(|change| self.make(change));
    }

    fn make(&mut self, change: Change) {
        match change {
            Change::Request(channel, handler) => self.entry(channel).request = Some(handler),
            Change::Notification(channel, handler) => {
                self.entry(channel).notification = Some(handler);
            }
            Change::Response(channel, handler) => self.entry(channel).response = Some(handler),
            Change::Filter(filter) => self.filter = Some(filter),
            Change::Connected(hook) => self.connected = Some(hook),
            Change::Disconnected(hook) => self.disconnected = Some(hook),
            Change::Removed(key) => {
                if let Some(slot) = self.channels.get_mut(key.index()) {
                    slot.take_if(|(channel, _)| *channel == key);
                }
            }
        }
    }

    /// Returns the handlers of a channel, after adding an entry for them, or those of the fallback.
    fn entry(&mut self, key: Option<ChannelKey>) -> &mut ChannelHandlers {
        let Some(key) = key else { return &mut self.fallback };
        let index = key.index();
        if self.channels.len() <= index {
            self.channels.resize_with(index + 1, || None);
        }
        let slot = &mut self.channels[index];
        // The entry may belong to a channel that was removed.
        if slot.as_ref().is_some_and(|(channel, _)| *channel != key) {
            *slot = None;
        }
        &mut slot.get_or_insert_with(|| (key, ChannelHandlers::default())).1
    }

    /// Calls the channel's request handler, or else the fallback. Returns whether one of them
    /// dealt with the request.
    pub(crate) fn request(&mut self, core: &mut Core, parts: Parts<'_>) -> bool {
        self.catch_up(core);
        let own = find(&mut self.channels, parts.channel).and_then(|own| own.request.as_mut());
        own.is_some_and(|own| call(own, core, &self.remote, parts))
            || self
                .fallback
                .request
                .as_mut()
                .is_some_and(|other| call(other, core, &self.remote, parts))
    }

    /// Calls the channel's handler of notifications or responses, or else the fallback. Returns
    /// whether one of them took the message.
    pub(crate) fn deliver(&mut self, core: &mut Core, parts: Parts<'_>) -> bool {
        self.catch_up(core);
        let message_type = parts.envelope.message_type();
        let own = find(&mut self.channels, parts.channel).and_then(|own| own.of(message_type));
        own.is_some_and(|own| hand_over(own, core, &self.remote, parts))
            || self
                .fallback
                .of(message_type)
                .is_some_and(|other| hand_over(other, core, &self.remote, parts))
    }

    /// Returns whether there are handlers for messages of this type to channels that do not exist.
    pub(crate) fn has_fallback(&mut self, core: &mut Core, message_type: MessageType) -> bool {
        self.catch_up(core);
        match message_type {
            MessageType::Request => self.fallback.request.is_some(),
            MessageType::Notification => self.fallback.notification.is_some(),
            _ => false,
        }
    }

    pub(crate) fn has_filter(&mut self, core: &mut Core) -> bool {
        self.catch_up(core);
        self.filter.is_some()
    }

    /// Calls the filter, which decides whether a message is carried out.
    pub(crate) fn filter(&mut self, core: &mut Core, parts: Parts<'_>) -> Result<Verdict, Refusal> {
        self.catch_up(core);
        let Some(filter) = &mut self.filter else { return Ok(Verdict::CarryOut) };
        let (mut dealt, remote) = (Dealt::Not, &self.remote);
        let call = || filter(&mut parts.with(core, &mut dealt, remote));
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(Ok(verdict)) => Ok(verdict),
            Ok(Err(error)) => Err(refusal::filtered(error.into_text())),
            Err(panic) => {
                let trace = |reason: &str| trace_failure(parts.envelope, reason);
                Err(refusal::filter_failed(note_panic(core, &*panic, trace)))
            }
        }
    }

    /// Asks the filter about the channels that connections are about to hear through patterns, and
    /// delivers what it allows.
    #[inline]
    pub(crate) fn decide(&mut self, core: &mut Core) {
        if !core.agenda.undecided.is_empty() {
            self.decide_all(core);
        }
    }

    #[cold]
    fn decide_all(&mut self, core: &mut Core) {
        core.agenda.is_deciding = true;
        // The filter may publish, too.
        while let Some(undecided) = core.agenda.undecided.pop_front() {
            self.decide_one(core, undecided);
        }
        core.agenda.is_deciding = false;
    }

    fn decide_one(&mut self, core: &mut Core, undecided: Undecided) {
        if self.ask_about(core, undecided.to, &undecided.channel) {
            verdicts::deliver(core, undecided);
        }
    }

    /// Returns whether a connection may hear a channel through patterns. The filter is asked once.
    pub(crate) fn ask_about(
        &mut self,
        core: &mut Core,
        who: ConnectionKey,
        channel: &Arc<str>,
    ) -> bool {
        verdicts::verdict(core, who, channel).unwrap_or_else(|| {
            let is_allowed = self.allows(core, who, channel);
            verdicts::note(core, who, channel, is_allowed);
            is_allowed
        })
    }

    /// Asks the filter about a channel, as if a connection subscribed to it.
    fn allows(&mut self, core: &mut Core, from: ConnectionKey, channel: &str) -> bool {
        let Some(session) = core.connections.session(from) else { return false };
        let Some(owner) = core.router.applications.get(session.application) else { return false };
        let app_id = owner.id_json.clone();
        let payload = format!("{{\"connection_id\":\"{}\",\"pattern\":true}}", escape(&session.id));
        let key = core.router.channel(session.application, channel);
        let stamp = core.encoder.stamp(core.turn.now.unix);
        let head = Head {
            message_id: stamp.id(),
            app_id: &app_id,
            channel_id: &escape(channel),
            message_type: MessageType::Subscribe,
            timestamp: stamp.time(),
            reply_to: None,
            meta: None,
        };
        let mut frame = Vec::new();
        OutFrame::own(&head, payload.as_bytes(), &mut core.pool).append_to(&mut frame);
        let Ok(envelope) = Envelope::parse(&frame[HEADER_BYTES..]) else { return false };
        let channel = key.unwrap_or(ChannelKey::NOWHERE);
        let parts = Parts { envelope: &envelope, from, channel, meta: None };
        matches!(self.filter(core, parts), Ok(Verdict::CarryOut))
    }

    /// Calls the hooks for connections that were opened or closed.
    pub(crate) fn announce(&mut self, core: &mut Core) {
        // A hook may close connections, which causes further events.
        while !core.agenda.events.is_empty() {
            for event in std::mem::take(&mut core.agenda.events) {
                self.catch_up(core);
                let hook = if event.opened { &mut self.connected } else { &mut self.disconnected };
                let Some(hook) = hook else { continue };
                let info = ConnectionInfo {
                    key: event.key,
                    app_id: &event.app_id,
                    connection_id: &event.connection_id,
                    peer: event.peer.into(),
                };
                let call = || hook(&info, &mut Context::new(core));
                if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
                    let trace = |reason: &str| {
                        crate::trace::handler_failed(&event.app_id, None, reason);
                    };
                    note_panic(core, &*panic, trace);
                }
            }
        }
    }
}

fn find(
    channels: &mut [Option<(ChannelKey, ChannelHandlers)>],
    key: ChannelKey,
) -> Option<&mut ChannelHandlers> {
    let (channel, handlers) = channels.get_mut(key.index())?.as_mut()?;
    (*channel == key).then_some(handlers)
}

/// Calls a request handler. Returns whether it dealt with the request.
fn call(
    handler: &mut RequestHandler,
    core: &mut Core,
    remote: &Arc<Remote>,
    parts: Parts<'_>,
) -> bool {
    let mut dealt = Dealt::Not;
    let arrived = core.turn.arrived;
    let began = core.latency.begin(core.turn.now.monotonic.into());
    let result = catch_unwind(AssertUnwindSafe(|| {
        let request = Request::from(parts.with(core, &mut dealt, remote));
        handler(request).map(|_reply| ())
    }));
    if dealt == Dealt::PassedOn {
        return false;
    }
    let failure: Cow<'static, str> = match result {
        Ok(Ok(())) => "it returned without answering".into(),
        Ok(Err(error)) => {
            if let Some(payload) = error.payload().filter(|_| dealt == Dealt::Not) {
                let ended = core.latency.end(began);
                answers::refuse_by_application(core, parts.from, parts.envelope, payload);
                measuring::note_answer(core, parts.channel, arrived, began, ended);
                return true;
            }
            core.counters.handler_failures += 1;
            trace_failure(parts.envelope, error.text());
            error.into_text().into()
        }
        Err(panic) => {
            note_panic(core, &*panic, |reason| trace_failure(parts.envelope, reason)).into()
        }
    };
    let ended = core.latency.end(began);
    if dealt == Dealt::Not {
        answers::refuse(core, parts.from, parts.envelope, &refusal::handler_failed(&failure));
    }
    if dealt != Dealt::Later {
        measuring::note_answer(core, parts.channel, arrived, began, ended);
    }
    true
}

/// Calls a handler of notifications or responses. Returns whether it took the message.
fn hand_over(
    handler: &mut DeliveryHandler,
    core: &mut Core,
    remote: &Arc<Remote>,
    parts: Parts<'_>,
) -> bool {
    let mut dealt = Dealt::Not;
    let call = || handler(parts.with(core, &mut dealt, remote));
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => return dealt != Dealt::PassedOn,
        Ok(Err(error)) => {
            if let Some(payload) = error.payload() {
                answers::refuse_by_application(core, parts.from, parts.envelope, payload);
                return true;
            }
            trace_failure(parts.envelope, error.text());
        }
        Err(panic) => {
            note_panic(core, &*panic, |reason| trace_failure(parts.envelope, reason));
        }
    }
    core.counters.handler_failures += 1;
    // A message without an answer has no error either, except that the protocol defines one for
    // notifications.
    if parts.envelope.message_type() == MessageType::Notification {
        answers::refuse(core, parts.from, parts.envelope, &refusal::notification_failed());
    }
    true
}

/// Counts a panic and logs its message, which is not for the peer. Returns the text for the peer.
fn note_panic(core: &mut Core, panic: &(dyn Any + Send), trace: impl FnOnce(&str)) -> &'static str {
    core.counters.handler_panics += 1;
    let said = panic.downcast_ref::<&str>().copied();
    let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    trace(said.unwrap_or("a panic without a message"));
    "it panicked; the server's log says more"
}

#[cold]
fn trace_failure(envelope: &Envelope<'_>, reason: &str) {
    let (app_id, channel_id) = (envelope.app_id().decode(), envelope.channel_id().decode());
    crate::trace::handler_failed(&app_id, Some(&channel_id), reason);
}
