//! TLS on TCP listeners, with certificates made on the spot.

pub(crate) mod certificates;
mod client;
mod client_failures;
#[cfg(feature = "cli")]
mod commands;
mod floods;
#[cfg(feature = "cli")]
mod hints;
mod hostile;
mod peer;
#[cfg(feature = "cli")]
mod program;

use std::time::Duration;

use ipc_framework::{Config, Error, Limits, Server, Tls};
use serde_json::{Value, json};

use self::certificates::Certificates;
use self::peer::TlsPeer;
use crate::support::{HANG, TestServer, code, install_echo, serve};

fn serve_tls(tls: &Tls, limits: Limits) -> TestServer {
    let config = Config::default().tls(tls.clone()).limits(limits);
    serve(config, install_echo)
}

#[test]
fn what_goes_both_ways_arrives_whole_however_large() {
    let certificates = Certificates::new("whole");
    let server = serve_tls(&certificates.tls(), Limits::default());
    let mut peer = TlsPeer::connected(server.address, &certificates.client(), "one");
    assert_eq!(peer.request("echo", json!({"a": [1]})), json!({"a": [1]}));
    let large = json!("x".repeat(3 << 20));
    assert_eq!(peer.request("echo", large.clone()), large);
    // Many answers are sent at once, and the peer reads them only afterwards.
    let small = json!("y".repeat(2_000));
    for _ in 0..2_000 {
        peer.send("request", "echo", small.clone());
    }
    for _ in 0..2_000 {
        assert_eq!(peer.receive()["payload"], small);
    }
    drop(peer);
    server.wait_until("its end", |stats| stats.total_connections == 0);
}

#[test]
fn whoever_does_not_read_is_closed_and_the_others_get_everything() {
    let certificates = Certificates::new("stalled");
    let limits = Limits::default().slow_consumer_grace(Duration::from_secs(3));
    let server = serve_tls(&certificates.tls(), limits);
    let client = certificates.client();
    let slow = TlsPeer::connected(server.address, &client, "slow").subscribed("news");
    let mut quick = TlsPeer::connected(server.address, &client, "quick").subscribed("news");
    let mut publisher = TlsPeer::connected(server.address, &client, "publisher");
    let text = "z".repeat(100 << 10);
    let publish = std::thread::spawn(move || {
        for at in 0..200 {
            publisher.send("publish", "news", json!({"at": at, "text": text}));
        }
        publisher
    });
    for at in 0..200 {
        assert_eq!(quick.receive()["payload"]["at"], at);
    }
    let stats = server.wait_until("its end", |stats| stats.total_connections == 2);
    assert_eq!(stats.counters.slow_consumers, 1);
    drop((slow, publish.join().unwrap()));
}

#[test]
fn who_says_no_more_gets_what_was_encrypted_already_however_late_it_reads() {
    let certificates = Certificates::new("half");
    let limits = Limits::default().slow_consumer_grace(HANG);
    let server = serve_tls(&certificates.tls(), limits);
    let client = certificates.client();
    // With growing sizes the kernel has room for all of it, then TLS alone holds the rest, and then
    // a part is still in the server's queue.
    let sizes = (300..900).step_by(10).map(|kib| kib << 10);
    let peers = sizes.map(|size| {
        let mut peer = TlsPeer::narrow(server.address, &client);
        peer.connect("app", &format!("half-{size}"));
        let text = json!("h".repeat(size));
        peer.send("request", "echo", text.clone());
        peer.finish_write();
        (peer, text)
    });
    let peers: Vec<_> = peers.collect();
    let stats = server.wait_until("their ends", |stats| stats.total_connections == 0);
    assert!(stats.buffered_bytes > 0, "the kernel took everything");
    // This is longer than a connection lingers after everything was sent.
    std::thread::sleep(Duration::from_millis(1_500));
    for (mut peer, text) in peers {
        assert_eq!(peer.receive()["payload"], text, "{} B", text.to_string().len());
        peer.expect_clean_end();
    }
}

#[test]
fn who_is_one_too_many_is_told_so_behind_the_handshake() {
    let certificates = Certificates::new("full");
    let limits = Limits::default().connections_max(1);
    let server = serve_tls(&certificates.tls(), limits);
    let first = TlsPeer::connected(server.address, &certificates.client(), "first");
    let mut second = TlsPeer::over_tls(server.address, &certificates.client());
    assert_eq!(code(&second.receive()), "server_full");
    second.expect_any_end();
    drop(first);
    server.wait_until("its end", |stats| stats.total_connections == 0);
    TlsPeer::connected(server.address, &certificates.client(), "third");
}

#[test]
fn with_a_client_ca_only_those_come_in_whom_it_has_signed() {
    let certificates = Certificates::new("mutual");
    let strangers = Certificates::new("strangers");
    let server = serve_tls(&certificates.mutual_tls(), Limits::default());
    let mut known = TlsPeer::connected(server.address, &certificates.known_client(), "known");
    known.fence();
    TlsPeer::over_tls(server.address, &certificates.client()).expect_failure();
    let stranger = certificates.client_with(&strangers);
    TlsPeer::over_tls(server.address, &stranger).expect_failure();
    let stats = server.wait_until("both ends", |stats| stats.counters.transport_failures == 2);
    assert_eq!(stats.total_connections, 1);
    known.fence();
}

#[test]
fn another_certificate_is_shown_to_newcomers_and_nobody_is_closed_for_it() {
    let certificates = Certificates::new("renewed");
    let tls = certificates.tls();
    let server = serve_tls(&tls, Limits::default());
    let mut before = TlsPeer::connected(server.address, &certificates.client(), "before");
    let others = Certificates::new("others");
    certificates.replace_by(&others);
    tls.reload().unwrap();
    before.fence();
    TlsPeer::over_tls(server.address, &certificates.client()).expect_failure();
    TlsPeer::connected(server.address, &others.client(), "after").fence();

    // A reload that fails leaves the certificate that was there.
    certificates.spoil();
    assert!(tls.reload().is_err());
    TlsPeer::connected(server.address, &others.client(), "still").fence();
    before.fence();
}

#[test]
fn encryption_alone_does_not_open_a_public_address_and_certificates_of_clients_do() {
    let certificates = Certificates::new("public");
    let public = |tls| Config::default().host("0.0.0.0".to_owned()).port(0).tls(tls);
    let config = public(Some(certificates.tls()));
    assert!(matches!(config.problems()[..], [Error::Unprotected { .. }]));
    assert!(matches!(Server::bind(config).unwrap_err(), Error::Unprotected { .. }));
    let config = public(Some(certificates.mutual_tls()));
    assert!(config.problems().is_empty());
    Server::bind(config).unwrap();
}

#[test]
fn files_that_do_not_fit_are_refused_without_showing_what_is_in_them() {
    let certificates = Certificates::new("files");
    let [certificate, key] = ["server.pem", "server.key"].map(|name| certificates.path(name));
    let refused = |certificate, key, client_ca| {
        let error = Tls::from_files(certificate, key, client_ca).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("BEGIN") && !shown.contains(certificates.secret()), "{shown}");
        shown
    };
    assert!(refused(&key, &key, None).contains("holds no certificate"));
    assert!(refused(&certificate, &certificate, None).contains("may read or write it"));
    let other = certificates.private_file("other.key", &Certificates::new("other key").key);
    assert!(refused(&certificate, &other, None).contains("do not work together"));
    let none = certificates.private_file("none.key", certificates.secret());
    assert!(refused(&certificate, &none, None).contains("holds no private key"));
    assert!(refused(&certificate, &key, Some(none.clone())).contains("holds no certificate"));
    certificates.set_mode("server.key", 0o644);
    assert!(refused(&certificate, &key, None).contains("chmod 600"));
}

/// Tests with a program that does not use Rust.
#[test]
fn python_speaks_to_it_with_the_tls_it_comes_with() {
    let certificates = Certificates::new("python");
    let server = serve_tls(&certificates.mutual_tls(), Limits::default());
    let script = r#"
import json, socket, ssl, struct, sys
port, ca, cert, key = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.load_cert_chain(cert, key)
stream = context.wrap_socket(socket.create_connection(("127.0.0.1", int(port))), server_hostname="localhost")
def send(kind, channel, payload):
    body = json.dumps({"message_id": "1", "app_id": "app", "channel_id": channel, "message_type": kind,
                       "payload": payload, "timestamp": 1.5, "reply_to": None}).encode()
    stream.sendall(struct.pack("!I", len(body)))
    stream.sendall(body)
def receive():
    def exactly(count):
        data = b""
        while len(data) < count:
            more = stream.recv(count - len(data))
            assert more, "the stream ended"
            data += more
        return data
    return json.loads(exactly(struct.unpack("!I", exactly(4))[0]))
send("request", "system", {"action": "connect", "connection_id": "python"})
assert receive()["payload"]["status"] == "connected"
text = "p" * 30000
for _ in range(20):
    send("request", "echo", text)
for _ in range(20):
    assert receive()["payload"] == text
version = stream.version()
stream.unwrap()
print(version)
"#;
    let output = std::process::Command::new("python3")
        .args(["-c", script, &server.address.port().to_string()])
        .args(["ca.pem", "client.pem", "client.key"].map(|name| certificates.path(name)))
        .output()
        .expect("python3");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "TLSv1.3", "{stderr}");
    server.wait_until("its end", |stats| stats.total_connections == 0);
}

#[test]
fn a_drain_says_goodbye_in_the_language_of_the_connection() {
    let certificates = Certificates::new("drain");
    let server = serve_tls(&certificates.tls(), Limits::default());
    let mut peer = TlsPeer::connected(server.address, &certificates.client(), "one");
    peer.fence();
    server.stop();
    let goodbye = peer.receive();
    assert_eq!((code(&goodbye), &goodbye["reply_to"]), ("shutting_down", &Value::Null));
    peer.expect_clean_end();
}
