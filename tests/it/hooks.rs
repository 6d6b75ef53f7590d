//! Hooks for connections that open and close, and the order of their calls.

use std::sync::mpsc;

use ipc_framework::{Config, Json, Message, MessageType, Peer as OtherEnd, UnixSocket};
use serde_json::json;

use crate::scratch::Scratch;
use crate::support::{HANG, Peer, serve};

#[test]
fn hooks_tell_who_comes_and_goes() {
    let (told, events) = mpsc::channel();
    let (came, went) = (told.clone(), told);
    let server = serve(Config::default(), move |server| {
        server.on_connect(move |info, context| {
            assert_eq!(context.connections_of(info.app_id).len(), 1);
            came.send(format!("+{}/{}", info.app_id, info.connection_id)).unwrap();
        });
        server.on_disconnect(move |info, _| {
            went.send(format!("-{}/{}", info.app_id, info.connection_id)).unwrap();
            panic!("a hook's bug hurts nobody");
        });
    });
    let peer = server.connected("app", "me");
    assert_eq!(events.recv_timeout(HANG).unwrap(), "+app/me");
    drop(peer);
    assert_eq!(events.recv_timeout(HANG).unwrap(), "-app/me");
    server.connected("app", "me").fence();
}

#[test]
fn a_take_over_is_one_coming_and_one_going() {
    let (told, events) = mpsc::channel();
    let (came, went) = (told.clone(), told);
    let server = serve(Config::default(), move |server| {
        server.on_connect(move |info, context| {
            let welcome = Message::new(MessageType::Notification, "app", "hi", Json::null());
            assert!(context.send_to_connection(info.key, &welcome).unwrap());
            came.send(("came", info.key)).unwrap();
        });
        server.on_disconnect(move |info, context| {
            let successor = context.get_connection(info.app_id, info.connection_id);
            assert_ne!(successor, Some(info.key), "who has gone is not found any more");
            went.send(("went", info.key)).unwrap();
        });
    });
    let mut older = server.connected("app", "twin");
    assert_eq!(older.receive()["channel_id"], "hi", "after the answer to connect");
    let (_, older_key) = events.recv_timeout(HANG).unwrap();
    let mut newer = server.connected("app", "twin");
    older.expect_closed("taken_over");
    // The older one leaves first, so a count of present connections never counts an id twice.
    assert_eq!(events.recv_timeout(HANG).unwrap(), ("went", older_key));
    let (came, newer_key) = events.recv_timeout(HANG).unwrap();
    assert_eq!(came, "came");
    assert_ne!(newer_key, older_key);
    assert_eq!(newer.receive()["channel_id"], "hi");
    newer.fence();
    drop(newer);
    assert_eq!(events.recv_timeout(HANG).unwrap(), ("went", newer_key));
    server.stop();
    assert_eq!(events.try_iter().count(), 0);
}

#[test]
fn a_connection_is_announced_before_its_first_request_is_handled() {
    let (told, events) = mpsc::channel();
    let (came, asked) = (told.clone(), told);
    let server = serve(Config::default(), move |server| {
        server.on_connect(move |info, _| came.send(format!("+{}", info.connection_id)).unwrap());
        server.application("app", "The App").channel("ask").on_request(move |request| {
            asked.send("asked".to_owned())?;
            request.reply(&0)
        });
    });
    let mut peer = server.peer().called("app", "me");
    let connect = json!({"action": "connect", "connection_id": "me"});
    let messages =
        [peer.message("request", "system", &connect), peer.message("request", "ask", &json!(1))];
    peer.send_all(&messages);
    assert_eq!(peer.receive()["payload"]["status"], "connected");
    assert_eq!(peer.receive()["payload"], 0);
    assert_eq!(events.recv_timeout(HANG).unwrap(), "+me");
    assert_eq!(events.recv_timeout(HANG).unwrap(), "asked");
}

#[test]
fn hooks_are_told_who_is_at_the_other_end() {
    let scratch = Scratch::new("hooks");
    let path = scratch.socket();
    let (told, events) = mpsc::channel();
    let (came, went) = (told.clone(), told);
    let config = Config::default().unix(UnixSocket::at(&path));
    let server = serve(config, move |server| {
        server.on_connect(move |info, context| {
            let listed = context.list_connections();
            assert!(listed.iter().any(|one| (one.key, one.peer) == (info.key, info.peer)));
            came.send(info.peer).unwrap();
        });
        server.on_disconnect(move |info, _| went.send(info.peer).unwrap());
    });
    let peer = server.connected("app", "over TCP");
    let address = OtherEnd::Tcp(peer.stream.local_addr().unwrap());
    assert_eq!(events.recv_timeout(HANG).unwrap(), address);
    drop(peer);
    assert_eq!(events.recv_timeout(HANG).unwrap(), address);
    let mut peer = Peer::over_unix(&path).unwrap();
    peer.connect("app", "over a Unix socket");
    let OtherEnd::Unix { user, pid } = events.recv_timeout(HANG).unwrap() else {
        panic!("it is over a Unix socket");
    };
    if cfg!(target_os = "linux") {
        let (user, pid) = (user.unwrap(), pid.unwrap());
        assert_eq!(user.uid, rustix::process::geteuid().as_raw());
        assert_eq!(user.gid, rustix::process::getegid().as_raw());
        assert_eq!(pid.get(), std::process::id());
    }
}
