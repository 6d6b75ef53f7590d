//! Every error code of the protocol, provoked over a real socket.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use ipc_framework::{
    Access, Config, ErrorCode, HandlerError, Limits, Reply, Request, Server, Token,
};
use serde_json::{Value, json};

use crate::calls::extended;
use crate::support::{Peer, TestServer, install_echo, serve};

/// The state of the connection after an error, according to the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    StaysOpen,
    Closed,
    /// Open until the requests in flight are answered, then closed.
    AsTheDrainSays,
}

struct Provocation {
    what: &'static str,
    code: ErrorCode,
    fate: Fate,
    provoke: fn() -> Provoked,
}

/// The result of a provocation, whose error is on its way to the culprit.
struct Provoked {
    culprit: Peer,
    channel_id: &'static str,
    reply_to: Value,
    stage: Stage,
}

/// A server with a healthy connection that must not notice anything.
///
/// The server is dropped last, because it would otherwise wait for the connections that are still
/// open.
struct Stage {
    bystander: Peer,
    /// Other connections that have to stay open.
    others: Vec<Peer>,
    server: TestServer,
}

const PROVOCATIONS: &[Provocation] = &[
    open("an empty frame", ErrorCode::BadFrame, empty_frame),
    open("no JSON before the handshake", ErrorCode::BadFrame, no_json_before_the_handshake),
    open("an unknown field", ErrorCode::BadMessage, unknown_field),
    open("neither id can be read", ErrorCode::BadMessage, unreadable_ids),
    open("a connect without id", ErrorCode::BadMessage, connect_without_id),
    closed("a length over the limit", ErrorCode::FrameTooLarge, length_over_the_limit),
    closed("a request before the connect", ErrorCode::NotConnected, request_before_connect),
    closed("a wrong token", ErrorCode::AuthFailed, wrong_token),
    closed("no token", ErrorCode::AuthFailed, no_token),
    closed("one connection too many", ErrorCode::ServerFull, one_connection_too_many),
    open("a channel nobody serves", ErrorCode::NoHandler, channel_nobody_serves),
    open("an unknown action", ErrorCode::NoHandler, unknown_action),
    open("a handler's error", ErrorCode::HandlerFailed, handler_error),
    open("a handler's panic", ErrorCode::HandlerFailed, handler_panic),
    open("a dropped responder", ErrorCode::HandlerFailed, dropped_responder),
    open("a worker that dies", ErrorCode::WorkerLost, worker_dies),
    open("a worker that is silent", ErrorCode::Timeout, worker_is_silent),
    open("a responder that is silent", ErrorCode::Timeout, responder_is_silent),
    open("a cancel", ErrorCode::Cancelled, cancel),
    open("another application", ErrorCode::Forbidden, another_application),
    open("another's subscription", ErrorCode::Forbidden, anothers_subscription),
    open("a second connect", ErrorCode::Forbidden, second_connect),
    open("too many channels", ErrorCode::LimitExceeded, too_many_channels),
    open("too many channels in all", ErrorCode::LimitExceeded, too_many_channels_in_all),
    open("too many subscriptions", ErrorCode::LimitExceeded, too_many_subscriptions),
    open("too many pending requests", ErrorCode::LimitExceeded, too_many_pending),
    open("too many services", ErrorCode::LimitExceeded, too_many_services),
    closed("the same id again", ErrorCode::TakenOver, same_id_again),
    draining("the notice of a drain", notice_of_a_drain),
    draining("a request while draining", request_while_draining),
];

const fn open(what: &'static str, code: ErrorCode, provoke: fn() -> Provoked) -> Provocation {
    Provocation { what, code, fate: Fate::StaysOpen, provoke }
}

const fn closed(what: &'static str, code: ErrorCode, provoke: fn() -> Provoked) -> Provocation {
    Provocation { what, code, fate: Fate::Closed, provoke }
}

const fn draining(what: &'static str, provoke: fn() -> Provoked) -> Provocation {
    Provocation { what, code: ErrorCode::ShuttingDown, fate: Fate::AsTheDrainSays, provoke }
}

#[test]
fn every_code_is_provoked_and_none_is_unknown() {
    let provoked = PROVOCATIONS.iter().map(|one| one.code);
    // The server itself needs no extension of a peer: only client libraries say `unsupported`.
    let provoked: BTreeSet<ErrorCode> = provoked.chain([ErrorCode::Unsupported]).collect();
    assert_eq!(provoked, BTreeSet::from(ErrorCode::ALL));
}

#[test]
fn every_error_is_addressed_and_ends_as_the_protocol_says() {
    for Provocation { what, code, fate, provoke } in PROVOCATIONS {
        // Shown if a provocation fails.
        println!("provoking {code} by {what}");
        let Provoked { mut culprit, channel_id, reply_to, mut stage } = provoke();
        culprit.expect_error(code.as_str(), channel_id, reply_to);
        match fate {
            Fate::StaysOpen => stay_open(&mut culprit),
            Fate::Closed => culprit.expect_end(),
            Fate::AsTheDrainSays => {
                stage.see_the_drain_through(culprit);
                continue;
            }
        }
        stage.goes_on();
        assert_eq!(
            stage.server.stats().counters.errors[code.as_str()],
            1,
            "{code} is counted once"
        );
        drop(culprit);
    }
}

/// A culprit that was refused before or at its connect may still connect.
fn stay_open(culprit: &mut Peer) {
    if culprit.app_id.is_empty() {
        culprit.connect("app", "culprit");
    }
    culprit.fence();
}

impl Stage {
    fn new(config: Config, set_up: impl FnOnce(&mut Server)) -> Self {
        let server = serve(config, |server| {
            install_echo(server);
            set_up(server);
        });
        let bystander = server.connected("app", "bystander").subscribed("calm");
        Self { bystander, others: Vec::new(), server }
    }

    fn plain() -> Self {
        Self::new(Config::default(), |_| {})
    }

    fn limited(limits: Limits) -> Self {
        Self::new(Config::default().limits(limits), |_| {})
    }

    fn culprit(&self) -> Peer {
        self.server.connected("app", "culprit")
    }

    /// Connects a worker of the channel `work`.
    fn worker(&self) -> Peer {
        self.server.connected("app", "worker").serving("work")
    }

    fn goes_on(&mut self) {
        assert_eq!(self.bystander.request("echo", json!("well?")), json!("well?"));
        self.bystander.send("publish", "calm", json!("well"));
        assert_eq!(self.bystander.receive()["payload"], "well");
        self.bystander.fence();
        for other in &mut self.others {
            other.fence();
        }
    }

    fn provoked(
        self,
        culprit: Peer,
        channel_id: &'static str,
        reply_to: impl Into<Value>,
    ) -> Provoked {
        Provoked { culprit, channel_id, reply_to: reply_to.into(), stage: self }
    }

    /// Sends a message from the culprit, which is refused.
    fn provoked_by(
        self,
        mut culprit: Peer,
        message_type: &str,
        channel_id: &'static str,
        payload: Value,
    ) -> Provoked {
        let id = culprit.send(message_type, channel_id, payload);
        self.provoked(culprit, channel_id, id)
    }

    /// The worker answers the requests of the culprit and the bystander.
    fn see_the_drain_through(mut self, mut culprit: Peer) {
        let mut worker = self.others.remove(0);
        let tasks = [worker.receive(), worker.receive()];
        worker.expect_error("shutting_down", "system", Value::Null);
        self.bystander.expect_error("shutting_down", "system", Value::Null);
        for task in tasks {
            worker.answer(&task, "done");
        }
        for peer in [&mut culprit, &mut self.bystander] {
            assert_eq!(peer.receive()["payload"], "done");
            peer.expect_end();
        }
        worker.expect_end();
    }
}

fn empty_frame() -> Provoked {
    let stage = Stage::plain();
    let mut culprit = stage.culprit();
    culprit.send_body(b"");
    stage.provoked(culprit, "system", Value::Null)
}

fn no_json_before_the_handshake() -> Provoked {
    let stage = Stage::plain();
    let mut culprit = stage.server.peer();
    culprit.send_body(b"hello?");
    stage.provoked(culprit, "system", Value::Null)
}

fn cancel() -> Provoked {
    let mut stage = Stage::plain();
    stage.others.push(stage.worker());
    let mut culprit = extended(&stage.server, "culprit");
    let id = culprit.send("request", "work", json!(1));
    stage.others[0].receive();
    culprit.send("notification", "system", json!({"action": "cancel", "message_id": id}));
    stage.provoked(culprit, "work", id)
}

fn unknown_field() -> Provoked {
    let stage = Stage::plain();
    let mut culprit = stage.culprit();
    let mut message = culprit.message("request", "echo", &json!(1));
    message["priority"] = json!("high");
    let id = message["message_id"].clone();
    culprit.send_message(&message);
    stage.provoked(culprit, "echo", id)
}

fn unreadable_ids() -> Provoked {
    let stage = Stage::plain();
    let mut culprit = stage.culprit();
    let mut message = culprit.message("request", "echo", &json!(1));
    message["message_id"] = json!(7);
    message["channel_id"] = json!(["echo"]);
    culprit.send_message(&message);
    stage.provoked(culprit, "system", Value::Null)
}

fn connect_without_id() -> Provoked {
    let stage = Stage::plain();
    let mut culprit = stage.server.peer().called("app", "");
    let id = culprit.send("request", "system", json!({"action": "connect"}));
    culprit.app_id.clear();
    stage.provoked(culprit, "system", id)
}

fn length_over_the_limit() -> Provoked {
    let stage = Stage::limited(Limits::default().frame_bytes_max(1_024));
    let mut culprit = stage.culprit();
    culprit.stream.write_all(&1_025_u32.to_be_bytes()).unwrap();
    stage.provoked(culprit, "system", Value::Null)
}

fn request_before_connect() -> Provoked {
    let stage = Stage::plain();
    let culprit = stage.server.peer().called("app", "");
    stage.provoked_by(culprit, "request", "echo", json!(1))
}

fn wrong_token() -> Provoked {
    refused_at_the_door(json!({"action": "connect", "connection_id": "c", "token": "guess"}))
}

fn no_token() -> Provoked {
    refused_at_the_door(json!({"action": "connect", "connection_id": "c"}))
}

fn refused_at_the_door(connect: Value) -> Provoked {
    let mut access = Access::default();
    access.applications.insert("vault".to_owned(), Token::new("sesame"));
    let stage = Stage::new(Config::default().access(access), |_| {});
    let culprit = stage.server.peer().called("vault", "");
    stage.provoked_by(culprit, "request", "system", connect)
}

fn one_connection_too_many() -> Provoked {
    let stage = Stage::limited(Limits::default().connections_max(1));
    let culprit = stage.server.peer();
    stage.provoked(culprit, "system", Value::Null)
}

fn channel_nobody_serves() -> Provoked {
    plainly("request", "nowhere", json!(1))
}

/// Sends a message from a culprit that is otherwise innocent.
fn plainly(message_type: &str, channel_id: &'static str, payload: Value) -> Provoked {
    let stage = Stage::plain();
    let culprit = stage.culprit();
    stage.provoked_by(culprit, message_type, channel_id, payload)
}

fn unknown_action() -> Provoked {
    plainly("request", "system", json!({"action": "dance"}))
}

fn handler_error() -> Provoked {
    moody(Limits::default(), |_request| Err("not today".into()))
}

fn handler_panic() -> Provoked {
    moody(Limits::default(), |_request| panic!("provoked by a test"))
}

fn dropped_responder() -> Provoked {
    moody(Limits::default(), |request| Ok(request.defer()?.0))
}

/// Sends a request to a handler that does this.
fn moody(
    limits: Limits,
    handler: impl FnMut(Request<'_>) -> Result<Reply, HandlerError> + Send + 'static,
) -> Provoked {
    let stage = Stage::new(Config::default().limits(limits), |server| {
        server.application("app", "The App").channel("moody").on_request(handler);
    });
    let culprit = stage.culprit();
    stage.provoked_by(culprit, "request", "moody", json!(1))
}

fn worker_dies() -> Provoked {
    let stage = Stage::plain();
    let mut worker = stage.worker();
    let mut culprit = stage.culprit();
    let id = culprit.send("request", "work", json!(1));
    worker.receive();
    drop(worker);
    stage.provoked(culprit, "work", id)
}

const SOON: Duration = Duration::from_millis(50);

fn worker_is_silent() -> Provoked {
    let mut stage = Stage::limited(Limits::default().request_timeout(SOON));
    let mut worker = stage.worker();
    let mut culprit = stage.culprit();
    let id = culprit.send("request", "work", json!(1));
    worker.receive();
    stage.others.push(worker);
    stage.provoked(culprit, "work", id)
}

fn responder_is_silent() -> Provoked {
    let mut kept = Vec::new();
    moody(Limits::default().request_timeout(SOON), move |request| {
        let (reply, responder) = request.defer()?;
        kept.push(responder);
        Ok(reply)
    })
}

fn another_application() -> Provoked {
    let mut stage = Stage::plain();
    stage.others.push(stage.server.connected("other", "native"));
    let mut culprit = stage.culprit();
    "other".clone_into(&mut culprit.app_id);
    let id = culprit.send("request", "echo", json!(1));
    "app".clone_into(&mut culprit.app_id);
    stage.provoked(culprit, "echo", id)
}

fn anothers_subscription() -> Provoked {
    plainly("unsubscribe", "calm", json!({"connection_id": "bystander"}))
}

fn second_connect() -> Provoked {
    plainly("request", "system", json!({"action": "connect", "connection_id": "another"}))
}

fn too_many_channels() -> Provoked {
    let stage = Stage::limited(Limits::default().channels_per_connection_max(1));
    let mut culprit = stage.culprit();
    culprit.subscribe("one");
    stage.provoked_by(culprit, "subscribe", "two", json!({"connection_id": "culprit"}))
}

fn too_many_channels_in_all() -> Provoked {
    // These are `echo` and `calm`.
    let stage = Stage::limited(Limits::default().channels_max(2));
    let culprit = stage.culprit();
    stage.provoked_by(culprit, "subscribe", "third", json!({"connection_id": "culprit"}))
}

fn too_many_subscriptions() -> Provoked {
    let limits = Limits::default().subscriptions_per_connection_max(1);
    let stage = Stage::limited(limits);
    let mut culprit = stage.culprit();
    culprit.subscribe("one");
    stage.provoked_by(culprit, "subscribe", "two", json!({"connection_id": "culprit"}))
}

fn too_many_pending() -> Provoked {
    let mut stage = Stage::limited(Limits::default().pending_per_connection_max(1));
    let mut worker = stage.worker();
    let mut culprit = stage.culprit();
    culprit.send("request", "work", json!(1));
    worker.receive();
    stage.others.push(worker);
    stage.provoked_by(culprit, "request", "work", json!(2))
}

fn too_many_services() -> Provoked {
    let stage = Stage::limited(Limits::default().services_per_connection_max(1));
    let mut culprit = stage.culprit();
    culprit.serve("one");
    stage.provoked_by(culprit, "request", "system", json!({"action": "serve", "channel": "two"}))
}

fn same_id_again() -> Provoked {
    let mut stage = Stage::plain();
    let culprit = stage.culprit();
    stage.others.push(stage.culprit());
    stage.provoked(culprit, "system", Value::Null)
}

fn notice_of_a_drain() -> Provoked {
    let (stage, culprit) = drain_with_two_requests_in_flight();
    stage.provoked(culprit, "system", Value::Null)
}

fn request_while_draining() -> Provoked {
    let (stage, mut culprit) = drain_with_two_requests_in_flight();
    culprit.expect_error("shutting_down", "system", Value::Null);
    stage.provoked_by(culprit, "request", "echo", json!(1))
}

/// The worker that holds both requests is the first of the others.
fn drain_with_two_requests_in_flight() -> (Stage, Peer) {
    let mut stage = Stage::plain();
    let mut culprit = stage.culprit();
    stage.others.push(stage.worker());
    for requester in [&mut culprit, &mut stage.bystander] {
        requester.send("request", "work", json!(1));
        requester.fence();
    }
    stage.server.handle.stop();
    (stage, culprit)
}
