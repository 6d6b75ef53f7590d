//! The file of a Unix socket, TCP beside it, and addresses that need a token.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use ipc_framework::{Access, Config, Context, Error, Server, Token, UnixSocket};
use serde_json::json;

use crate::scratch::Scratch;
use crate::support::{HANG, Peer, frame, serve};

fn only_unix(path: &Path) -> Config {
    Config::default().host(None).unix(UnixSocket::at(path))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn assert_serves(path: &Path) {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(HANG)).unwrap();
    let connect =
        br#"{"message_id":"1","app_id":"app","channel_id":"system","message_type":"request",
        "payload":{"action":"connect","connection_id":"c"},"timestamp":0}"#;
    stream.write_all(&frame(connect)).unwrap();
    let mut header = [0; 4];
    stream.read_exact(&mut header).unwrap();
    let mut body = vec![0; u32::from_be_bytes(header) as usize];
    stream.read_exact(&mut body).unwrap();
    assert!(String::from_utf8(body).unwrap().contains("connected"));
}

#[test]
fn tcp_and_unix_at_once_and_the_path_is_free_afterwards() {
    let scratch = Scratch::new("tcp-and-unix");
    let path = scratch.socket();
    let config = Config::default().unix(UnixSocket::at(&path));
    let server = serve(config, |_| {});
    assert_eq!(mode(&path), 0o600);
    assert_serves(&path);
    server.connected("app", "by-tcp").fence();
    server.stop();
    assert!(!path.exists());
}

#[test]
fn the_mode_can_be_set() {
    let scratch = Scratch::new("mode");
    let unix = UnixSocket::at(scratch.socket()).mode(0o660);
    let config = Config::default().host(None).unix(unix);
    let _server = Server::bind(config).unwrap();
    assert_eq!(mode(&scratch.socket()), 0o660);
}

#[test]
fn a_stale_socket_is_replaced_a_live_one_and_a_file_are_not() {
    let scratch = Scratch::new("stale");
    let path = scratch.socket();
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "std leaves it behind");
    let mut server = Server::bind(only_unix(&path)).unwrap();

    let refused = Server::bind(only_unix(&path)).unwrap_err();
    assert!(matches!(refused, Error::Listen { .. }), "{refused:?}");
    assert!(refused.to_string().contains("another process listens there"), "{refused}");
    let handle = server.handle();
    let running = std::thread::spawn(move || server.run());
    assert_serves(&path);
    handle.stop();
    running.join().unwrap().unwrap();

    fs::write(&path, "precious").unwrap();
    Server::bind(only_unix(&path)).unwrap_err();
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn another_servers_socket_is_not_removed() {
    let scratch = Scratch::new("replaced");
    let path = scratch.socket();
    let server = Server::bind(only_unix(&path)).unwrap();
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(server);
    assert!(path.exists());
}

#[test]
fn of_many_that_start_at_once_one_wins_and_serves() {
    let scratch = Scratch::new("race");
    let path = scratch.socket();
    drop(UnixListener::bind(&path).unwrap());
    let racers: Vec<_> = (0..8)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || Server::bind(only_unix(&path)).ok())
        })
        .collect();
    let winners: Vec<Server> = racers.into_iter().filter_map(|r| r.join().unwrap()).collect();
    let [mut winner] = <[Server; 1]>::try_from(winners).expect("exactly one wins");
    let handle = winner.handle();
    let running = std::thread::spawn(move || winner.run());
    assert_serves(&path);
    handle.stop();
    running.join().unwrap().unwrap();
}

#[test]
fn public_addresses_want_a_token() {
    let public = || Config::default().host("0.0.0.0".to_owned()).port(0);
    let refused = Server::bind(public()).unwrap_err();
    assert!(matches!(refused, Error::Unprotected { .. }), "{refused:?}");
    assert!(refused.to_string().contains("token"), "{refused}");
    let access = Access::default().token(Token::new("secret"));
    Server::bind(public().access(access)).unwrap();
    Server::bind(public().insecure(true)).unwrap();
}

#[test]
fn whoever_can_connect_finds_the_permissions_in_place() {
    let scratch = Scratch::new("early");
    // A plain bind creates the file with this mode, which depends on the umask.
    let plain = scratch.0.join("plain");
    let _plain = UnixListener::bind(&plain).unwrap();
    let wanted = if mode(&plain) == 0o600 { 0o640 } else { 0o600 };
    for round in 0..200 {
        let path = scratch.0.join(format!("{round}.sock"));
        let there = path.clone();
        let watcher = std::thread::spawn(move || {
            while UnixStream::connect(&there).is_err() {
                std::thread::yield_now();
            }
            mode(&there)
        });
        let unix = UnixSocket::at(path).mode(wanted);
        let config = Config::default().host(None).unix(unix);
        let _server = Server::bind(config).unwrap();
        assert_eq!(watcher.join().unwrap(), wanted, "round {round}");
    }
}

#[test]
fn a_live_server_goes_on_when_a_second_one_is_refused() {
    let scratch = Scratch::new("live");
    let path = scratch.socket();
    let config = Config::default().unix(UnixSocket::at(&path));
    let server = serve(config, |_| {});
    let inode = fs::metadata(&path).unwrap().ino();
    let mut before = Peer::over_unix(&path).unwrap();
    before.connect("app", "before");
    for _ in 0..3 {
        let refused = Server::bind(only_unix(&path)).unwrap_err();
        let Error::Listen { address, source } = refused else { panic!("{refused}") };
        assert_eq!(source.kind(), ErrorKind::AddrInUse);
        assert_eq!(address, format!("unix:{}", path.display()));
    }
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "the same socket");
    before.fence();
    // A message from one socket reaches a subscriber on the other.
    let mut by_tcp = server.connected("app", "by-tcp");
    before.subscribe("news");
    by_tcp.send("publish", "news", json!("across"));
    assert_eq!(before.receive()["payload"], "across");
}

#[test]
fn a_live_server_that_is_too_busy_to_accept_is_not_stolen_from() {
    let scratch = Scratch::new("busy");
    let path = scratch.socket();
    let busy = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    let address = socket2::SockAddr::unix(&path).unwrap();
    busy.bind(&address).unwrap();
    busy.listen(1).unwrap();
    let mut waiting = Vec::new();
    loop {
        let next = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
        let next = next.unwrap();
        next.set_nonblocking(true).unwrap();
        let full = next.connect(&address).is_err();
        waiting.push(next);
        assert!(waiting.len() < 1000, "a backlog of one is never full");
        if full {
            break;
        }
    }
    let refused = Server::bind(only_unix(&path)).unwrap_err();
    assert!(refused.to_string().contains("listens there already"), "{refused}");
    assert!(path.exists());
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let scratch = Scratch::new("others");
    let target = scratch.0.join("target");
    fs::write(&target, "precious").unwrap();
    let link = scratch.0.join("link");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let directory = scratch.0.join("directory");
    fs::create_dir(&directory).unwrap();
    for path in [&target, &link, &directory] {
        let refused = Server::bind(only_unix(path)).unwrap_err();
        assert!(refused.to_string().contains("not a socket"), "{refused}");
        assert!(fs::symlink_metadata(path).is_ok());
    }
    assert_eq!(fs::read_to_string(&link).unwrap(), "precious");
    let missing = scratch.0.join("missing").join("ipc.sock");
    assert!(matches!(Server::bind(only_unix(&missing)), Err(Error::Listen { .. })));
}

#[test]
fn the_path_is_free_as_soon_as_nobody_is_accepted_any_more() {
    let scratch = Scratch::new("successor");
    let path = scratch.socket();
    let config = Config::default().unix(UnixSocket::at(&path));
    let server = serve(config, |_| {});
    let mut peer = Peer::over_unix(&path).unwrap();
    peer.connect("app", "peer");
    server.handle.stop();
    peer.expect_error("shutting_down", "system", serde_json::Value::Null);
    assert!(!path.exists(), "a successor may start while this one drains");
    let successor = Server::bind(only_unix(&path)).unwrap();
    drop(peer);
    server.stop();
    assert!(path.exists(), "the end of one does not take the other's path");
    drop(successor);
    assert!(!path.exists());
}

/// A socket that takes a whole write reports no room later: what is behind it has to be written at
/// once.
#[test]
fn publications_beyond_the_slices_of_one_write_are_sent_too() {
    const PUBLICATIONS: usize = 48;
    // Too large to be copied, so that each takes a slice of its own.
    const BYTES: usize = 4_200;
    let scratch = Scratch::new("slices");
    let path = scratch.socket();
    let server = serve(Config::default().unix(UnixSocket::at(&path)), |_| {});
    let mut subscriber = Peer::over_unix(&path).unwrap();
    subscriber.connect("app", "subscriber");
    subscriber.subscribe("news");
    // One command, so that all of them are in the queue before the first is sent.
    let publish_all = |context: &mut Context<'_>| {
        for number in 0..PUBLICATIONS {
            let news = json!({"number": number, "pad": "x".repeat(BYTES)});
            assert_eq!(context.publish("app", "news", &news).unwrap(), 1);
        }
    };
    server.handle.post(publish_all).unwrap();
    for number in 0..PUBLICATIONS {
        assert_eq!(subscriber.receive()["payload"]["number"], number);
    }
}
