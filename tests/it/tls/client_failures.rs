//! Failures of TLS, as the clients of this crate report them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use ipc_framework::Limits;
use ipc_framework::client::{Endpoint, Error, Fault, Options, Tls};
use rcgen::date_time_ymd;

use super::certificates::Certificates;
use super::client::options;
use super::serve_tls;
use crate::support::{HANG, serve_echo};

/// Returns the error, which both clients report in the same words.
fn refused(options: &Options) -> Error {
    let mut client_options = ipc_framework::client::ClientOptions::new("app");
    client_options.connection = options.clone();
    let error = options.connect().unwrap_err();
    assert_eq!(client_options.connect().unwrap_err().to_string(), error.to_string());
    error
}

#[track_caller]
fn assert_tls(error: &Error, whose: Fault, words: &str) {
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    assert_eq!(error.fault(), whose, "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

#[test]
fn a_server_that_another_authority_vouches_for_is_not_talked_to() {
    let certificates = Certificates::new("failures, authority");
    let server = serve_tls(&certificates.tls(), Limits::default());
    let others = Certificates::new("failures, other authority");
    let error = refused(&options(server.address, others.trust()));
    assert_tls(&error, Fault::Server, "signed by nobody whom this client trusts");
    let stats = server.stats();
    assert_eq!((stats.total_connections, stats.counters.frames_in), (0, 0));
}

#[test]
fn the_name_has_to_be_in_the_certificate_or_be_said() {
    let certificates = Certificates::with("failures, name", |params| {
        params.subject_alt_names =
            vec![rcgen::SanType::DnsName("ipc.internal".try_into().unwrap())];
    });
    let server = serve_tls(&certificates.tls(), Limits::default());
    let error = refused(&options(server.address, certificates.trust()));
    assert_tls(&error, Fault::Server, "not for localhost but for");
    assert!(error.to_string().contains("ipc.internal"), "{error}");
    let mut by_address = options(server.address, certificates.trust());
    by_address.endpoint = Endpoint::tcp("127.0.0.1", server.address.port());
    assert_tls(&refused(&by_address), Fault::Server, "not for 127.0.0.1 but for");
    let named = certificates.trust().server_name("ipc.internal").unwrap();
    options(server.address, named).connect().unwrap().close().unwrap();
    assert!(certificates.trust().server_name("no host").is_err());
}

#[test]
fn an_address_can_stand_in_a_certificate_as_well() {
    let certificates = Certificates::with("failures, address", |params| {
        params.subject_alt_names = vec![rcgen::SanType::IpAddress([127, 0, 0, 1].into())];
    });
    let server = serve_tls(&certificates.tls(), Limits::default());
    let mut by_address = options(server.address, certificates.trust());
    by_address.endpoint = Endpoint::tcp("127.0.0.1", server.address.port());
    by_address.connect().unwrap().close().unwrap();
}

#[test]
fn certificates_of_the_past_and_of_the_future_are_no_good() {
    let expired = Certificates::with("failures, expired", |params| {
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    let server = serve_tls(&expired.tls(), Limits::default());
    let error = refused(&options(server.address, expired.trust()));
    assert_tls(&error, Fault::Server, "has expired; renew it");
    let early = Certificates::with("failures, early", |params| {
        params.not_before = date_time_ymd(3000, 1, 1);
    });
    let server = serve_tls(&early.tls(), Limits::default());
    assert_tls(&refused(&options(server.address, early.trust())), Fault::Server, "not valid yet");
}

/// `openssl req -x509` makes an authority, which many use as a server's own certificate.
#[test]
fn an_authority_as_a_server_is_called_so() {
    let certificates = Certificates::with("failures, selfsigned", |params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    let server = serve_tls(&certificates.tls(), Limits::default());
    let error = refused(&options(server.address, certificates.trust()));
    assert_tls(&error, Fault::Server, "the certificate of an authority as its own");
}

#[test]
fn a_server_that_asks_for_certificates_says_what_it_misses() {
    let certificates = Certificates::new("failures, mutual");
    let server = serve_tls(&certificates.mutual_tls(), Limits::default());
    // The reason comes after the handshake, together with messages of the client.
    for _ in 0..20 {
        let error = refused(&options(server.address, certificates.trust()));
        assert_tls(&error, Fault::Caller, "asks for a certificate of the client's");
    }
    let strangers = Certificates::new("failures, strangers");
    let tls = certificates.trust();
    let tls = tls.certificate(strangers.path("client.pem"), strangers.path("client.key")).unwrap();
    let error = refused(&options(server.address, tls));
    assert_tls(&error, Fault::Caller, "does not accept this client's certificate");
    let known = options(server.address, certificates.trust_and_show());
    known.connect().unwrap().close().unwrap();
}

#[test]
fn who_speaks_tls_to_those_who_do_not_is_told_so_and_the_other_way_round() {
    let certificates = Certificates::new("failures, mixed");
    let server = serve_tls(&certificates.tls(), Limits::default());
    let mut plain = options(server.address, certificates.trust());
    plain.tls = None;
    let error = refused(&plain);
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
    assert!(error.to_string().contains("this port speaks TLS"), "{error}");

    let server = serve_echo();
    let error = refused(&options(server.address, certificates.trust()));
    assert_tls(&error, Fault::Server, "what answers there is not TLS");

    // A server without TLS waits for the rest of a frame, as it takes the hello for the beginning
    // of one.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut options = options(silent.local_addr().unwrap(), certificates.trust());
    options.connect_timeout = Duration::from_millis(200);
    let error = refused(&options);
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    assert!(error.to_string().contains("a port without TLS never sends"), "{error}");

    options.endpoint = Endpoint::unix("/nonexistent/ipc.sock");
    assert_tls(&refused(&options), Fault::Caller, "a Unix socket needs none");
}

/// The server sends its part of a handshake byte by byte and never ends, so there is always
/// something new to read.
#[test]
fn a_handshake_that_trickles_ends_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let trickling = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut hello = [0; 1024];
        let _ = socket.read(&mut hello).unwrap();
        // The record has the greatest length and never ends.
        let record = [[22, 3, 3, 0x40, 0].to_vec(), vec![2; 1 << 14]].concat();
        let begin = Instant::now();
        for byte in record {
            if socket.write_all(&[byte]).is_err() || begin.elapsed() > HANG {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        begin.elapsed()
    });
    let certificates = Certificates::new("failures, trickling");
    let mut options = options(address, certificates.trust());
    options.connect_timeout = Duration::from_millis(300);
    let error = options.connect().unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    assert!(trickling.join().unwrap() < HANG, "the client left before the server gave up");
}

#[test]
fn files_are_checked_before_anything_is_connected_and_not_shown() {
    let certificates = Certificates::new("failures, files");
    let [certificate, key] = ["client.pem", "client.key"].map(|name| certificates.path(name));
    let secret = std::fs::read_to_string(&key).unwrap();
    let secret = secret.lines().nth(1).unwrap();
    let refused = |tls: Result<Tls, ipc_framework::Error>| {
        let error = tls.unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("BEGIN") && !shown.contains(secret), "{shown}");
        shown
    };
    assert!(refused(Tls::with_ca("/nonexistent/ca.pem")).contains("/nonexistent/ca.pem"));
    assert!(refused(Tls::with_ca(&key)).contains("holds no certificate"));
    let trust = || certificates.trust();
    assert!(refused(trust().certificate(&key, &key)).contains("holds no certificate"));
    assert!(refused(trust().certificate(&certificate, &certificate)).contains("may read or write"));
    let other = certificates.path("server.key");
    assert!(refused(trust().certificate(&certificate, &other)).contains("do not work together"));
    certificates.set_mode("client.key", 0o644);
    assert!(refused(trust().certificate(&certificate, &key)).contains("chmod 600"));
    certificates.set_mode("client.key", 0o600);
    let tls = trust().certificate(&certificate, &key).unwrap().server_name("localhost").unwrap();
    let mut options = options(([127, 0, 0, 1], 1).into(), tls);
    options.token = Some(ipc_framework::Token::new("a token"));
    let shown = format!("{options:?}");
    assert!(shown.contains("client.key") && shown.contains("ca.pem"), "{shown}");
    assert!(!shown.contains(secret) && !shown.contains("a token"), "{shown}");
}
