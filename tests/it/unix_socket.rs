//! The file of a Unix socket, TCP beside it, and addresses that may not be listened on.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use ipc_framework::{Access, Address, Config, Error, Server, Token, UnixSocket};

use crate::support::{HANG, Peer, frame, serve};

/// A directory of one test's own.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ipc-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("ipc.sock")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn only_unix(path: &Path) -> Config {
    Config { host: None, unix: Some(UnixSocket::at(path)), ..Config::default() }
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
    let scratch = Scratch::new("both");
    let path = scratch.socket();
    let config = Config { unix: Some(UnixSocket::at(&path)), ..Config::default() };
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
    let unix = UnixSocket { path: scratch.socket(), mode: 0o660 };
    let config = Config { host: None, unix: Some(unix), ..Config::default() };
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
    assert!(refused.to_string().contains("something else listens there"), "{refused}");
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
fn localhost_is_both_families() {
    let server = Server::bind(Config { port: 0, ..Config::default() }).unwrap();
    let addresses: Vec<_> = server
        .addresses()
        .iter()
        .map(|address| match address {
            Address::Tcp(address) => *address,
            Address::Unix(_) => panic!("none was asked for"),
        })
        .collect();
    let [v4, v6] = addresses[..] else { panic!("{addresses:?}") };
    assert!(v4.is_ipv4() && v6.is_ipv6());
    assert_eq!(v4.port(), v6.port());
    // The kernel accepts before anybody runs the server.
    drop((Peer::new(v4), Peer::new(v6)));
}

#[test]
fn public_addresses_want_a_token() {
    let public = || Config { host: Some("0.0.0.0".to_owned()), port: 0, ..Config::default() };
    let refused = Server::bind(public()).unwrap_err();
    assert!(matches!(refused, Error::Config(_)), "{refused:?}");
    assert!(refused.to_string().contains("token"), "{refused}");
    let access = Access { default: Some(Token::new("secret")), ..Access::default() };
    Server::bind(Config { access, ..public() }).unwrap();
    Server::bind(Config { insecure: true, ..public() }).unwrap();
}

#[test]
fn a_port_in_use_is_said_to_be() {
    let first = Server::bind(Config { port: 0, ..Config::default() }).unwrap();
    let port = first.addresses()[0].port().unwrap();
    let refused = Server::bind(Config { port, ..Config::default() }).unwrap_err();
    assert!(refused.to_string().contains("listens there already"), "{refused}");
}
