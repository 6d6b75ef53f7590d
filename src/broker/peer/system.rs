//! The `system` channel: the handshake, and requests to the server itself.

use std::borrow::Cow;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use serde::Serialize;

use super::listings::{self, Listing};
use super::operator;
use super::purge;
use super::sharing;
use crate::branches::{self, Branch};
use crate::broker::flow::{answers, applications, channels, closing, workers};
use crate::broker::limits::CONCURRENCY_MAX;
use crate::broker::state::connection::{Session, State};
use crate::broker::state::core::Core;
use crate::broker::state::encoder::Address;
use crate::broker::state::events::ConnectionEvent;
use crate::broker::state::keys::{ApplicationKey, ConnectionKey};
use crate::broker::state::refusal::{self, Refusal, Stop};
use crate::broker::state::service::Elsewhere;
use crate::broker::state::timers::Due;
use crate::proto::system::SYSTEM;
use crate::proto::{Envelope, Extensions, JsonStr, Member, MessageType, members, only_member};

/// The first message of a connection.
pub(crate) fn connect(
    core: &mut Core,
    from: ConnectionKey,
    envelope: &Envelope<'_>,
) -> Result<(), Refusal> {
    let [connection_id, token, asked] = connect_payload(envelope)?;
    let extensions =
        (asked != Member::Absent).then(|| asked_extensions(envelope.payload_str())).transpose()?;
    if core.is_draining() {
        closing::refuse_and_close(core, from, envelope, &refusal::shutting_down());
        return Ok(());
    }
    let app_id = envelope.app_id().decode();
    let token = token.string().map(JsonStr::decode);
    let is_link = core.connections.is_link(from);
    if !is_link && !core.access.admits(&app_id, token.as_deref()) {
        branches::note(Branch::WrongToken);
        return Err(refusal::wrong_token(&app_id));
    }
    let id = connection_id.id().ok_or_else(refusal::connection_id_missing)?;
    if id.starts_with(LINK_IDS) != is_link {
        return Err(if is_link { refusal::no_link_id() } else { refusal::link_id() });
    }
    let id: Arc<str> = id.into();
    if is_link {
        applications::check_link(core, &app_id, &id)?;
    }
    let key = core.router.find_or_create_application(&app_id, core.turn.now.unix);
    if is_link {
        applications::open_link(core, from, key, &id);
    } else {
        open(core, from, key, &id);
    }
    if let Some(connection) = core.connections.get_mut(from) {
        // What other servers send to a link may be in any form.
        connection.extensions =
            if is_link { Extensions::ALL } else { extensions.unwrap_or_default() };
    }
    // The published client reads this as its first frame, not as an answer.
    let address = Address { app_id: envelope.app_id().raw(), channel_id: SYSTEM };
    let connected = Connected {
        status: "connected",
        connection_id: &id,
        server: SERVER,
        extensions,
        limits: extensions.map(|_| ConnectLimits {
            max_frame_bytes: core.limits.frame_bytes_max,
            request_timeout_ms: core.limits.request_timeout.map(|time| time.as_millis() as u64),
        }),
    };
    let message = answers::encode_own(core, address, MessageType::Response, None, &connected);
    if let Ok(message) = message {
        answers::send(core, from, message);
    }
    Ok(())
}

fn open(core: &mut Core, from: ConnectionKey, key: ApplicationKey, id: &Arc<str>) {
    let Some(application) = core.router.applications.get_mut(key) else { return };
    application.last_activity = core.turn.now.unix;
    let app_id = application.id.clone();
    let older = application.connections.insert(id.clone(), from);
    let idle = core.limits.idle_timeout;
    let idle = idle.map(|timeout| (core.turn.deadline_in(timeout), Due::Idle(from)));
    let Some(connection) = core.connections.get_mut(from) else { return };
    core.timers.reset(&mut connection.timer, idle);
    let peer = connection.peer;
    let session = Session::new(key, id.clone(), core.turn.now.unix);
    core.connections.enter(from, State::Open(session));
    crate::trace::connected(&core.who(from));
    // The older connection is reported to the hooks before the newer one.
    if let Some(older) = older {
        closing::supersede(core, older, from);
    }
    let connection_id = id.clone();
    let event = ConnectionEvent { opened: true, key: from, app_id, connection_id, peer };
    core.agenda.events.push(event);
    applications::note_wanted(core, key);
}

/// A request on the `system` channel.
pub(crate) fn request(
    core: &mut Core,
    from: ConnectionKey,
    envelope: &Envelope<'_>,
) -> Result<(), Stop> {
    let Some(session) = core.connections.session(from) else { return Ok(()) };
    let application = session.application;
    let found = members(envelope.payload_str(), ["action", "app_id", "channel"]);
    let [action, app_id, channel] = found.unwrap_or_default();
    let Some(action) = action.string() else { return Err(refusal::action_missing().into()) };
    match &*action.beginning(ACTION_CHARS_MAX) {
        "ping" => answers::respond(core, from, envelope, &Status { status: "pong" }),
        "health_check" => answers::respond(core, from, envelope, &Status { status: "healthy" }),
        "get_time" => {
            let timestamp = core.turn.now.unix.as_secs_f64();
            answers::respond(core, from, envelope, &Time { timestamp });
        }
        "get_stats" => {
            let stats = core.stats();
            answers::respond(core, from, envelope, &stats);
        }
        "list_applications" => {
            // If there are tokens, applications do not see one another.
            let only = (!core.access.is_open()).then_some(application);
            listings::answer(core, from, envelope, Listing::Applications(only))?;
        }
        "list_channels" => {
            let asked = asked_application(core, application, app_id)?;
            listings::answer(core, from, envelope, Listing::Channels(asked))?;
        }
        "get_latency" => {
            listings::answer(core, from, envelope, Listing::Latencies(application))?;
        }
        "list_services" => {
            listings::answer(core, from, envelope, Listing::Services(application))?;
        }
        "list_connections" => {
            operator::check(core, from)?;
            listings::answer(core, from, envelope, Listing::Connections)?;
        }
        "purge_retained" => purge::retained(core, from, envelope)?,
        "purge_history" => purge::histories(core, from, envelope)?,
        "serve" => {
            let channel = &*served_channel(channel)?;
            begin_serving(core, from, application, envelope, channel)?;
            let serving = Serving { status: "serving", channel };
            answers::respond(core, from, envelope, &serving);
        }
        "stop_serving" => {
            let channel = &*served_channel(channel)?;
            stop_serving(core, from, application, channel);
            let stopped = Serving { status: "stopped", channel };
            answers::respond(core, from, envelope, &stopped);
        }
        "share_memory" => sharing::ask(core, from, envelope)?,
        "connect" => return Err(refusal::connected_already().into()),
        unknown => return Err(refusal::action_unknown(unknown).into()),
    }
    Ok(())
}

fn asked_application(
    core: &Core,
    own: ApplicationKey,
    app_id: Member<'_>,
) -> Result<ApplicationKey, Refusal> {
    if app_id.string().is_none() {
        return Ok(own);
    }
    let asked = app_id.id().and_then(|app_id| core.router.application(&app_id));
    let visible = asked.filter(|asked| *asked == own || core.access.is_open());
    visible.ok_or_else(refusal::application_not_visible)
}

#[cold]
fn begin_serving(
    core: &mut Core,
    from: ConnectionKey,
    application: ApplicationKey,
    envelope: &Envelope<'_>,
    channel_id: &str,
) -> Result<(), Stop> {
    if channel_id == SYSTEM {
        return Err(refusal::system_is_served().into());
    }
    if core.is_draining() {
        return Err(refusal::shutting_down().into());
    }
    let concurrency = concurrency(envelope.payload_str())?;
    let elsewhere = core.connections.is_link(from).then(|| elsewhere(envelope.payload_str()));
    let channel = channels::find_or_claim(core, from, application, channel_id)?;
    let served = workers::serve(core, from, channel, concurrency, elsewhere);
    if let Err(why) = served {
        channels::disown_unused(core, from, channel);
        return Err(why);
    }
    Ok(())
}

fn stop_serving(
    core: &mut Core,
    from: ConnectionKey,
    application: ApplicationKey,
    channel_id: &str,
) {
    if let Some(channel) = core.router.channel(application, channel_id) {
        workers::remove(core, from, channel);
    }
}

/// Carries out a notification of a link that begins or ends to serve a channel, or says anew what its other
/// end has for it: `workers`, and how many requests of others are `in_flight` there. It has no answer, which
/// would stand among the frames for the other server. Returns whether it was one.
#[cold]
pub(crate) fn notified(
    core: &mut Core,
    from: ConnectionKey,
    envelope: &Envelope<'_>,
) -> Result<bool, Stop> {
    let Some(session) = core.connections.session(from) else { return Ok(false) };
    let application = session.application;
    let found = members(envelope.payload_str(), ["action", "channel"]);
    let [action, channel] = found.unwrap_or_default();
    let Some(action) = action.string() else { return Ok(false) };
    if action.matches("serve") {
        begin_serving(core, from, application, envelope, &served_channel(channel)?)?;
    } else if action.matches("stop_serving") {
        stop_serving(core, from, application, &served_channel(channel)?);
    } else {
        return Ok(false);
    }
    Ok(true)
}

/// Returns the extensions that a connect asks for.
#[cold]
fn asked_extensions(payload: &str) -> Result<Extensions, Refusal> {
    let asked = only_member(payload, "extensions").ok().flatten();
    asked.and_then(Extensions::from_json).ok_or_else(refusal::extensions_invalid)
}

/// Returns the id that a connection chooses, its token, and whether it asks for extensions.
fn connect_payload<'a>(envelope: &Envelope<'a>) -> Result<[Member<'a>; 3], Refusal> {
    let addressed =
        envelope.message_type() == MessageType::Request && envelope.channel_id().matches(SYSTEM);
    let names = ["action", "connection_id", "token", "extensions"];
    match members(envelope.payload_str(), names).filter(|_| addressed) {
        Some([Member::String(action), connection_id, token, extensions])
            if action.matches("connect") =>
        {
            Ok([connection_id, token, extensions])
        }
        _ => Err(refusal::connect_first()),
    }
}

/// Returns the number of unanswered requests that a worker takes at a time, if it gives one.
fn concurrency(payload: &str) -> Result<Option<NonZeroU32>, Refusal> {
    let Ok(given) = only_member(payload, "concurrency") else {
        return Err(refusal::concurrency_invalid());
    };
    let Some(text) = given else { return Ok(None) };
    let number = text.parse().ok().filter(|most: &NonZeroU32| most.get() <= CONCURRENCY_MAX);
    number.ok_or_else(refusal::concurrency_invalid).map(Some)
}

/// Returns what the other end of a link has: a single idle worker, where it does not say.
#[cold]
fn elsewhere(payload: &str) -> Elsewhere {
    let number = |name| only_member(payload, name).ok().flatten()?.parse::<u32>().ok();
    let workers = number("workers").map_or(1, |workers| workers.min(u16::MAX.into()) as u16);
    Elsewhere {
        workers: NonZeroU16::new(workers).unwrap_or(NonZeroU16::MIN),
        in_flight: number("in_flight").unwrap_or_default(),
    }
}

fn served_channel(channel: Member<'_>) -> Result<Cow<'_, str>, Refusal> {
    channel.id().ok_or_else(refusal::service_channel_missing)
}

/// The longest part of an action that is compared, and that the error for an unknown one shows.
const ACTION_CHARS_MAX: usize = 64;

/// The beginning of the ids of links, and of no others.
const LINK_IDS: &str = "$link/";

/// Name and version of this server, as other protocols announce theirs.
const SERVER: &str = concat!("ipc-framework/", env!("CARGO_PKG_VERSION"));

#[derive(Serialize)]
struct Status {
    status: &'static str,
}

#[derive(Serialize)]
struct Time {
    timestamp: f64,
}

#[derive(Serialize)]
struct Connected<'a> {
    status: &'static str,
    connection_id: &'a str,
    /// Tells clients that this is not the published server, whose client only reads the status.
    server: &'static str,
    /// What the connection has, if the client asked for extensions.
    #[serde(skip_serializing_if = "Option::is_none")]
    extensions: Option<Extensions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<ConnectLimits>,
}

/// Limits that a client can check by itself, before it sends. A reload may change them.
#[derive(Serialize)]
struct ConnectLimits {
    max_frame_bytes: usize,
    /// `None` stands for no timeout.
    request_timeout_ms: Option<u64>,
}

#[derive(Serialize)]
struct Serving<'a> {
    status: &'static str,
    channel: &'a str,
}
