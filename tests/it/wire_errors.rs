//! Every error code of the protocol, over a real socket, and what becomes of the connection.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use ipc_framework::{Access, Config, ErrorCode, Limits, Server, Token};
use serde_json::{Value, json};

use crate::support::{Peer, TestServer, code, install_echo, serve};

/// A server in which each code can be provoked without waiting long.
fn provocable() -> TestServer {
    let limits = Limits {
        connections_max: 6,
        request_timeout: Duration::from_millis(100),
        subscriptions_per_connection_max: 2,
        ..Limits::default()
    };
    let access = Access {
        applications: [("locked".to_owned(), Token::new("secret"))].into(),
        ..Access::default()
    };
    serve(Config { limits, access, ..Config::default() }, |server: &mut Server| {
        install_echo(server);
        let mut app = server.application("app", "The App");
        app.channel("fails").on_request(|_request| Err("not today".into()));
        app.channel("panics").on_request(|_request| panic!("a handler's bug"));
    })
}

/// What a peer gets for doing wrong, and whether it may go on.
struct Provoked {
    code: ErrorCode,
    answer: Value,
    /// The `message_id` and the channel that the answer must name.
    about: Option<(String, &'static str)>,
    peer: Peer,
}

fn provoked(code: ErrorCode, about: Option<(String, &'static str)>, mut peer: Peer) -> Provoked {
    let answer = peer.receive();
    Provoked { code, answer, about, peer }
}

type Provocation = fn(&TestServer) -> Provoked;

/// One way to provoke each code.
const PROVOCATIONS: [Provocation; 13] = [
    |server| {
        let mut peer = server.connected("app", "bad-frame");
        peer.send_body(b"{\"no\": JSON}");
        provoked(ErrorCode::BadFrame, None, peer)
    },
    |server| {
        let mut peer = server.connected("app", "bad-message");
        let mut message = peer.message("request", "echo", &json!(1));
        message.as_object_mut().unwrap().remove("timestamp");
        peer.send_message(&message);
        let id = message["message_id"].as_str().unwrap().to_owned();
        provoked(ErrorCode::BadMessage, Some((id, "echo")), peer)
    },
    |server| {
        let mut peer = server.connected("app", "too-large");
        peer.stream.write_all(&[0xff; 4]).unwrap();
        provoked(ErrorCode::FrameTooLarge, None, peer)
    },
    |server| {
        let mut peer = server.peer();
        "app".clone_into(&mut peer.app_id);
        let id = peer.send("request", "echo", json!(1));
        provoked(ErrorCode::NotConnected, Some((id, "echo")), peer)
    },
    |server| {
        let mut peer = server.peer();
        "locked".clone_into(&mut peer.app_id);
        let connect = json!({"action": "connect", "connection_id": "x", "token": "guess"});
        let id = peer.send("request", "system", connect);
        provoked(ErrorCode::AuthFailed, Some((id, "system")), peer)
    },
    |server| {
        let mut peer = server.connected("app", "no-handler");
        let id = peer.send("request", "nowhere", json!(null));
        provoked(ErrorCode::NoHandler, Some((id, "nowhere")), peer)
    },
    |server| {
        let mut peer = server.connected("app", "handler-panics");
        let id = peer.send("request", "panics", json!(null));
        let answer = peer.receive();
        assert_eq!((code(&answer), answer["reply_to"].as_str()), ("handler_failed", Some(&*id)));
        let id = peer.send("request", "fails", json!(null));
        provoked(ErrorCode::HandlerFailed, Some((id, "fails")), peer)
    },
    |server| {
        let mut worker = server.connected("app", "worker");
        worker.serve("lost");
        let mut peer = server.connected("app", "worker-lost");
        let id = peer.send("request", "lost", json!(null));
        worker.receive();
        drop(worker);
        provoked(ErrorCode::WorkerLost, Some((id, "lost")), peer)
    },
    |server| {
        let mut worker = server.connected("app", "worker");
        worker.serve("slow");
        let mut peer = server.connected("app", "timeout");
        let id = peer.send("request", "slow", json!(null));
        let task = worker.receive();
        let provoked = provoked(ErrorCode::Timeout, Some((id, "slow")), peer);
        // Too late: nobody is told.
        let mut answer = worker.message("response", "slow", &json!("late"));
        answer["reply_to"] = task["message_id"].clone();
        worker.send_message(&answer);
        worker.fence();
        provoked
    },
    |server| {
        let mut peer = server.connected("app", "forbidden");
        let id = peer.send("subscribe", "news", json!({"connection_id": "somebody-else"}));
        provoked(ErrorCode::Forbidden, Some((id, "news")), peer)
    },
    |server| {
        let mut peer = server.connected("app", "limit");
        peer.subscribe("one");
        peer.subscribe("two");
        let own = json!({"connection_id": "limit"});
        let id = peer.send("subscribe", "three", own);
        provoked(ErrorCode::LimitExceeded, Some((id, "three")), peer)
    },
    |server| {
        let peer = server.connected("app", "same");
        let mut newer = server.connected("app", "same");
        newer.fence();
        provoked(ErrorCode::TakenOver, None, peer)
    },
    |server| {
        let _others: Vec<Peer> = (0..5).map(|_| server.peer()).collect();
        let peer = loop {
            let peer = server.peer();
            peer.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            if peer.stream.peek(&mut [0]).is_ok() {
                break peer;
            }
        };
        peer.stream.set_read_timeout(Some(crate::support::HANG)).unwrap();
        provoked(ErrorCode::ServerFull, None, peer)
    },
];

#[test]
fn every_code_is_answered_as_the_protocol_says() {
    let server = provocable();
    let mut bystander = server.connected("app", "bystander");
    let mut seen = BTreeSet::new();
    for provoke in PROVOCATIONS {
        let Provoked { code: expected, answer, about, mut peer } = provoke(&server);
        assert_eq!(code(&answer), expected.as_str(), "{answer}");
        assert_eq!(answer["message_type"], "response", "{answer}");
        let (reply_to, channel_id) = match &about {
            Some((id, channel_id)) => (json!(id), *channel_id),
            None => (Value::Null, "system"),
        };
        assert_eq!(answer["reply_to"], reply_to, "{answer}");
        assert_eq!(answer["channel_id"], channel_id, "{answer}");
        if expected.closes_connection() {
            peer.expect_end();
        } else {
            peer.fence();
        }
        assert_eq!(bystander.request("echo", json!("goes on")), "goes on");
        seen.insert(expected);
        drop(peer);
        // The places must be free again before the next provocation counts them.
        while server.handle.stats().unwrap().total_connections > 1 {
            std::thread::yield_now();
        }
    }
    seen.insert(shutting_down(&server, &mut bystander));
    assert_eq!(seen, BTreeSet::from(ErrorCode::ALL));
}

/// Last, for nothing can be asked of a server that drains.
fn shutting_down(server: &TestServer, bystander: &mut Peer) -> ErrorCode {
    bystander.serve("held");
    let mut peer = server.connected("app", "waits");
    let waited_for = peer.send("request", "held", json!(1));
    let task = bystander.receive();
    server.handle.stop();
    let notice = peer.receive();
    assert_eq!((code(&notice), &notice["reply_to"]), ("shutting_down", &Value::Null));
    let id = peer.send("request", "echo", json!(2));
    let refused = peer.receive();
    assert_eq!((code(&refused), refused["reply_to"].as_str()), ("shutting_down", Some(&*id)));
    let mut answer = bystander.message("response", "held", &json!("in time"));
    answer["reply_to"] = task["message_id"].clone();
    bystander.send_message(&answer);
    let answer = peer.receive();
    assert_eq!(answer["reply_to"], waited_for.as_str());
    // In time, or cut off by the timeout of this test's server: answered either way.
    assert!(answer["payload"] == "in time" || code(&answer) == "timeout", "{answer}");
    peer.expect_end();
    ErrorCode::ShuttingDown
}
