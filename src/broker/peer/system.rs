//! The `system` channel: introducing oneself, and questions about the server.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;

use super::dispatch::Stop;
use super::listings::Listing;
use crate::broker::state::connection::{Session, State};
use crate::broker::state::core::{Core, Refusal};
use crate::broker::state::events::ConnectionEvent;
use crate::broker::state::keys::{ApplicationKey, ConnectionKey};
use crate::broker::state::timers::Due;
use crate::proto::system::SYSTEM;
use crate::proto::{Envelope, ErrorCode, ID_BYTES_MAX, JsonStr, Member, MessageType, members};

impl Core {
    /// The first message of a connection.
    pub(crate) fn connect(
        &mut self,
        from: ConnectionKey,
        envelope: &Envelope<'_>,
    ) -> Result<(), Refusal> {
        let [connection_id, token] = connect_payload(envelope)?;
        if self.is_draining() {
            self.begin_close_after(from, envelope, &super::dispatch::shutting_down());
            return Ok(());
        }
        let app_id = envelope.app_id().decode();
        let token = token.string().map(JsonStr::decode);
        if !self.access.admits(&app_id, token.as_deref()) {
            return Err(Refusal::new(
                ErrorCode::AuthFailed,
                "the token is missing or wrong; connect again with the application's token in \
                 payload.token",
            ));
        }
        let id: Arc<str> = own_id(connection_id)?.into();
        let key = self.router.find_or_create_application(&app_id, self.now.unix);
        self.open(from, key, &id);
        // The published client reads this as its first frame, not as an answer.
        let address = crate::broker::state::encoder::Address {
            app_id: envelope.app_id().raw(),
            channel_id: SYSTEM,
        };
        let connected = Connected { status: "connected", connection_id: &id, server: SERVER };
        if let Ok(message) = self.encode(address, MessageType::Response, None, &connected) {
            self.send(from, message);
        }
        Ok(())
    }

    fn open(&mut self, from: ConnectionKey, key: ApplicationKey, id: &Arc<str>) {
        let Some(application) = self.router.applications.get_mut(key) else { return };
        application.last_activity = self.now.unix;
        let app_id = application.id.clone();
        let older = application.connections.insert(id.clone(), from);
        let idle = self.limits.idle_timeout;
        let deadline = idle.map(|timeout| self.deadline_in(timeout));
        let Some(connection) = self.connections.get_mut(from) else { return };
        if let Some(timer) = connection.timer.take() {
            self.timers.disarm(timer);
        }
        connection.timer = deadline.map(|deadline| self.timers.arm(deadline, Due::Idle(from)));
        connection.state = State::Open(Session::new(key, id.clone()));
        self.sessions += 1;
        crate::trace::connected(from.index(), &app_id);
        if let Some(older) = older {
            self.supersede(older, from);
        }
        self.events.push(ConnectionEvent {
            opened: true,
            key: from,
            app_id,
            connection_id: id.clone(),
        });
    }

    pub(crate) fn system_request(
        &mut self,
        from: ConnectionKey,
        envelope: &Envelope<'_>,
    ) -> Result<(), Stop> {
        let session = self.connections.get(from).and_then(|c| c.session());
        let Some(application) = session.map(|session| session.application) else { return Ok(()) };
        let found = members(envelope.payload_str(), ["action", "app_id", "channel"]);
        let [action, app_id, channel] = found.unwrap_or_default();
        let Some(action) = action.string() else {
            return Err(Refusal::new(
                ErrorCode::BadMessage,
                "a request on 'system' has a payload such as {\"action\": \"ping\"}",
            )
            .into());
        };
        let answered = match &*action.beginning(ACTION_CHARS_MAX) {
            "ping" => self.respond(from, envelope, &Status { status: "pong" }),
            "health_check" => self.respond(from, envelope, &Status { status: "healthy" }),
            "get_time" => {
                let timestamp = self.now.unix.as_secs_f64();
                self.respond(from, envelope, &Time { timestamp })
            }
            "get_stats" => self.respond(from, envelope, &self.stats()),
            "list_applications" => {
                // With tokens in use, applications do not see one another.
                let only = (!self.access.is_open()).then_some(application);
                return self.list(from, envelope, Listing::Applications(only));
            }
            "list_channels" => {
                let asked = self.asked_application(application, app_id)?;
                return self.list(from, envelope, Listing::Channels(asked));
            }
            "get_latency" => return self.list(from, envelope, Listing::Latencies(application)),
            "list_services" => return self.list(from, envelope, Listing::Services(application)),
            "serve" => return Ok(self.begin_serving(from, application, envelope, channel)?),
            "stop_serving" => {
                return Ok(self.stop_serving(from, application, envelope, channel)?);
            }
            "connect" => {
                return Err(Refusal::new(
                    ErrorCode::Forbidden,
                    "this connection is connected already; open another one for another id or \
                     application",
                )
                .into());
            }
            unknown => {
                return Err(Refusal::new(
                    ErrorCode::NoHandler,
                    format!(
                        "the system channel knows no action {unknown:?}; it knows ping, get_time, \
                         health_check, get_stats, list_applications, list_channels, get_latency, \
                         list_services, serve and stop_serving"
                    ),
                )
                .into());
            }
        };
        debug_assert!(answered.is_ok(), "what the server says of itself is always JSON");
        Ok(())
    }

    fn asked_application(
        &self,
        own: ApplicationKey,
        app_id: Member<'_>,
    ) -> Result<ApplicationKey, Refusal> {
        if app_id.string().is_none() {
            return Ok(own);
        }
        let asked = app_id.id().and_then(|app_id| self.router.application(&app_id));
        asked.filter(|asked| *asked == own || self.access.is_open()).ok_or_else(|| {
            Refusal::new(
                ErrorCode::Forbidden,
                "there is no such application for this connection; leave app_id out to ask for \
                 its own",
            )
        })
    }

    fn begin_serving(
        &mut self,
        from: ConnectionKey,
        application: ApplicationKey,
        envelope: &Envelope<'_>,
        channel: Member<'_>,
    ) -> Result<(), Refusal> {
        let channel_id = &*served_channel(channel)?;
        if channel_id == SYSTEM {
            return Err(Refusal::new(
                ErrorCode::Forbidden,
                "the server itself serves 'system'; serve a channel of another name",
            ));
        }
        if self.is_draining() {
            return Err(super::dispatch::shutting_down());
        }
        let channel = self.find_or_create_channel(from, application, channel_id)?;
        self.add_worker(from, channel)?;
        let _ = self.respond(from, envelope, &Serving { status: "serving", channel: channel_id });
        Ok(())
    }

    fn stop_serving(
        &mut self,
        from: ConnectionKey,
        application: ApplicationKey,
        envelope: &Envelope<'_>,
        channel: Member<'_>,
    ) -> Result<(), Refusal> {
        let channel_id = &*served_channel(channel)?;
        if let Some(channel) = self.router.channel(application, channel_id) {
            self.remove_worker(from, channel);
        }
        let stopped = Serving { status: "stopped", channel: channel_id };
        let _ = self.respond(from, envelope, &stopped);
        Ok(())
    }
}

/// Who asks to be connected, and its token.
fn connect_payload<'a>(envelope: &Envelope<'a>) -> Result<[Member<'a>; 2], Refusal> {
    let addressed =
        envelope.message_type() == MessageType::Request && envelope.channel_id().matches(SYSTEM);
    let names = ["action", "connection_id", "token"];
    match members(envelope.payload_str(), names).filter(|_| addressed) {
        Some([Member::String(action), connection_id, token]) if action.matches("connect") => {
            Ok([connection_id, token])
        }
        _ => Err(Refusal::new(
            ErrorCode::NotConnected,
            "the first message of a connection is a request on channel 'system' with payload \
             {\"action\": \"connect\", \"connection_id\": \"<yours>\"}; connect again and send \
             that first",
        )),
    }
}

fn own_id(connection_id: Member<'_>) -> Result<Cow<'_, str>, Refusal> {
    connection_id.id().ok_or_else(|| {
        Refusal::new(
            ErrorCode::BadMessage,
            format!(
                "connect needs a connection_id in its payload: a string of 1 to {ID_BYTES_MAX} \
                 bytes that no other connection has, such as a UUID"
            ),
        )
    })
}

fn served_channel(channel: Member<'_>) -> Result<Cow<'_, str>, Refusal> {
    channel.id().ok_or_else(|| {
        Refusal::new(
            ErrorCode::BadMessage,
            format!(
                "serve and stop_serving need the channel in their payload: a string of 1 to \
                 {ID_BYTES_MAX} bytes"
            ),
        )
    })
}

/// What is looked at of an action, and shown of one that is unknown.
const ACTION_CHARS_MAX: usize = 64;

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
    /// Tells clients that they are not talking to the published server. That one's client
    /// looks at nothing but the status.
    server: &'static str,
}

#[derive(Serialize)]
struct Serving<'a> {
    status: &'static str,
    channel: &'a str,
}
