//! NATS with TLS, with users and with permissions.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ipc_framework::NatsOptions;
use nkeys::KeyPair;
use serde_json::{Value, json};

use super::nats_server::{NatsServer, Version};
use super::topology::reach_each_other;
use super::{joined_with, next_heard, until_heard};
use crate::cli::{Running, serve};
use crate::scratch::Scratch;
use crate::support::{Peer, TestServer};
use crate::tls::certificates::Certificates;

/// Waits until the server says this in its log.
fn until_said(server: &Running, words: &str) -> String {
    let mut said = String::new();
    for line in server.stderr_lines() {
        if line.contains(words) {
            return line;
        }
        said += &line;
    }
    panic!("it ended without {words:?}: {said}");
}

/// The server serves its own clients, and has not joined anybody.
fn serves_alone(server: &Running) {
    let mut subscriber = server.connected("app", "subscriber").subscribed("news");
    let mut publishes = server.connected("app", "publishes");
    publishes.send("publish", "news", json!("at home"));
    assert_eq!(subscriber.receive()["payload"], "at home");
    assert_eq!(publishes.stats()["nats"]["connected"], false);
}

fn joined_at(url: String) -> TestServer {
    joined_with(&NatsOptions::new([url]), |_| ())
}

fn servers_join_over_tls(version: Version, name: &str) {
    let address = rcgen::SanType::IpAddress([127, 0, 0, 1].into());
    let certificates =
        Certificates::with(name, |params| params.subject_alt_names.push(address.clone()));
    let path = |name: &str| certificates.path(name).to_str().unwrap().to_owned();
    let (ca, chain, key) = (path("ca.pem"), path("server.pem"), path("server.key"));
    let settings = format!(
        "tls {{ cert_file: \"{chain}\", key_file: \"{key}\", ca_file: \"{ca}\", verify: true, timeout: 60 }}\n"
    );
    let nats = NatsServer::start_with(version, &settings);
    let identity = (certificates.path("client.pem"), certificates.path("client.key"));
    let options = |url: String| {
        NatsOptions::new([url]).ca(certificates.path("ca.pem")).certificate(identity.clone())
    };
    let tls = format!("tls://127.0.0.1:{}", nats.port);
    // Either way to ask for it.
    reach_each_other(
        &joined_with(&options(tls.clone()), |_| ()),
        &joined_with(&options(nats.url()), |_| ()),
    );
    // Nobody is let in without a certificate, and nobody speaks to a NATS server that he does not trust.
    let nameless = ["--port", "0", "--nats", &tls, "--nats-tls-ca", &ca];
    let strangers = Certificates::new(&format!("{name} of others"));
    let other = strangers.path("ca.pem").to_str().unwrap().to_owned();
    let distrusting = ["--port", "0", "--nats", &tls, "--nats-tls-ca", &other];
    for arguments in [nameless, distrusting] {
        let server = Running::start(serve(&arguments));
        let line = until_said(&server, "no connection to NATS");
        assert!(line.contains("TLS, a certificate"), "{line}");
        serves_alone(&server);
    }
}

#[test]
fn servers_join_over_tls_with_the_newest_nats() {
    servers_join_over_tls(Version::Newest, "nats newest");
}

#[test]
fn servers_join_over_tls_with_debians_nats() {
    servers_join_over_tls(Version::Debian, "nats debian");
}

#[test]
fn a_user_with_a_password_and_a_token_join_and_wrong_ones_are_told() {
    for (settings, right, wrong) in [
        ("authorization { user: \"ipc\", password: \"s3cr3t\" }\n", "ipc:s3cr3t", "ipc:guessed"),
        ("authorization { token: \"s3cr3t\" }\n", "s3cr3t", "guessed"),
    ] {
        let nats = NatsServer::start_with(Version::Newest, settings);
        let url = |user: &str| format!("nats://{user}@127.0.0.1:{}", nats.port);
        reach_each_other(&joined_at(url(right)), &joined_at(url(right)));
        let server = Running::start(serve(&["--port", "0", "--nats", &url(wrong)]));
        let line = until_said(&server, "the bridge to NATS");
        assert!(line.to_lowercase().contains("authorization"), "{line}");
        assert!(!line.contains("guessed"), "{line}");
        serves_alone(&server);
    }
}

/// Signs claims as `nsc` does.
fn jwt(issuer: &KeyPair, subject: &KeyPair, nats: &Value) -> String {
    let (issued_by, subject) = (issuer.public_key(), subject.public_key());
    let claims = json!({
        "jti": subject, "iat": 1_700_000_000, "iss": issued_by, "name": "test", "sub": subject, "nats": nats,
    });
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(json!({"typ": "JWT", "alg": "ed25519-nkey"})), part(claims));
    let signature = issuer.sign(text.as_bytes()).unwrap();
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn a_file_of_credentials_lets_a_server_in() {
    let scratch = Scratch::new("nats-credentials");
    let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
    let limits = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
        "wildcards": true, "conn": -1, "leaf": -1});
    let trust = jwt(&operator, &operator, &json!({"type": "operator", "version": 2}));
    let accounts =
        jwt(&operator, &account, &json!({"type": "account", "version": 2, "limits": limits}));
    let settings = format!(
        "operator: \"{trust}\"\nresolver: MEMORY\nresolver_preload: {{ {}: \"{accounts}\" }}\n",
        account.public_key()
    );
    let nats = NatsServer::start_with(Version::Newest, &settings);
    let credentials = |name: &str, issuer: &KeyPair| {
        let user = KeyPair::new_user();
        let claims = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1});
        let (jwt, seed) = (jwt(issuer, &user, &claims), user.seed().unwrap());
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        scratch.file(name, 0o600, &text)
    };
    let right = credentials("right.creds", &account);
    let options = NatsOptions::new([nats.url()]).credentials(std::path::PathBuf::from(&right));
    reach_each_other(&joined_with(&options, |_| ()), &joined_with(&options, |_| ()));
    let program = ["--port", "0", "--nats", &nats.url(), "--nats-creds"].map(str::to_owned);
    let with = |file: &str| {
        let mut arguments: Vec<&str> = program.iter().map(String::as_str).collect();
        arguments.push(file);
        Running::start(serve(&arguments))
    };
    let server = with(&right);
    until_said(&server, "connected to NATS");
    // Of an account that this NATS server does not know.
    let server = with(&credentials("wrong.creds", &KeyPair::new_account()));
    let line = until_said(&server, "the bridge to NATS");
    assert!(line.to_lowercase().contains("authorization"), "{line}");
    serves_alone(&server);
}

/// Starts NATS with a user who may do everything and one who may not.
fn restricted(version: Version, permissions: &str) -> (NatsServer, [String; 2]) {
    let settings = format!(
        "authorization {{ users: [ {{ user: all, password: p }}, \
         {{ user: some, password: p, permissions: {{ {permissions} }} }} ] }}\n"
    );
    let nats = NatsServer::start_with(version, &settings);
    let url = |user: &str| format!("nats://{user}:p@127.0.0.1:{}", nats.port);
    let urls = [url("all"), url("some")];
    (nats, urls)
}

fn nats_of(peer: &mut Peer, name: &str) -> u64 {
    peer.stats()["nats"][name].as_u64().unwrap()
}

fn what_may_not_be_published_is_told_and_counted(version: Version) {
    let permissions = "publish: { deny: [\"ipc-pub.app.secret\"] }";
    let (_nats, [all, some]) = restricted(version, permissions);
    let here = Running::start(serve(&["--port", "0", "--nats", &some]));
    let there = joined_at(all);
    let mut subscriber =
        there.connected("app", "subscriber").subscribed("news").subscribed("secret");
    let mut local = here.connected("app", "local").subscribed("secret");
    let mut publishes = here.connected("app", "publishes");
    until_heard(&mut publishes, "news", &subscriber);
    let mut asks = here.connected("app", "asks");
    let (lost, confirmed) = (nats_of(&mut asks, "lost"), nats_of(&mut asks, "published"));
    for number in 0..20 {
        publishes.send("publish", "secret", json!(number));
        publishes.send("publish", "news", json!(number));
        assert_eq!(next_heard(&mut local), number);
        assert_eq!(next_heard(&mut subscriber), number);
    }
    let line = until_said(&here, "does not allow");
    for words in ["publish on ipc-pub.app.secret", "ipc-srv.>", "or share fewer channels"] {
        assert!(line.contains(words), "{line}");
    }
    crate::support::until(
        "all that was denied",
        || nats_of(&mut asks, "denied"),
        |denied| *denied >= 20,
    );
    assert_eq!((nats_of(&mut asks, "denied"), nats_of(&mut asks, "lost") - lost), (20, 20));
    // What comes behind is confirmed. The trials of before may have been confirmed meanwhile, too.
    let before = here.connected("app", "counts").stats()["counters"]["publications"].as_u64();
    crate::support::until(
        "all that was allowed",
        || nats_of(&mut asks, "published"),
        |now| *now >= confirmed + 20,
    );
    let (confirmed, lost) = (nats_of(&mut asks, "published"), nats_of(&mut asks, "lost"));
    assert!(confirmed + lost <= before.unwrap(), "{confirmed} and {lost} of {before:?}");
    // A line for each would fill the disk of whoever has misconfigured it.
    let lines = here.terminate();
    assert!(lines.matches("does not allow").count() <= 1, "{lines}");
}

#[test]
fn what_may_not_be_published_is_told_and_counted_with_the_newest_nats() {
    what_may_not_be_published_is_told_and_counted(Version::Newest);
}

#[test]
fn what_may_not_be_published_is_told_and_counted_with_debians_nats() {
    what_may_not_be_published_is_told_and_counted(Version::Debian);
}

#[test]
fn what_may_not_be_subscribed_to_is_told_and_the_rest_is_heard() {
    let permissions = "subscribe: { deny: [\"ipc-pub.app.secret\"] }";
    let (_nats, [all, some]) = restricted(Version::Newest, permissions);
    let here = Running::start(serve(&["--port", "0", "--nats", &some]));
    let there = joined_at(all);
    let mut subscriber =
        here.connected("app", "subscriber").subscribed("secret").subscribed("news");
    let mut publishes = there.connected("app", "publishes");
    until_heard(&mut publishes, "news", &subscriber);
    let line = until_said(&here, "does not allow");
    assert!(line.contains("subscribe to ipc-pub.app.secret"), "{line}");
    publishes.send("publish", "secret", json!("secret"));
    publishes.send("publish", "news", json!("end"));
    assert_eq!(next_heard(&mut subscriber), "end");
    let mut local = here.connected("app", "publishes here");
    local.send("publish", "secret", json!("at home"));
    assert_eq!(next_heard(&mut subscriber), "at home");
    assert_eq!(nats_of(&mut local, "denied"), 1);
}

/// Without its own subjects a server cannot join, and says which ones it needs.
#[test]
fn a_server_without_its_own_subjects_says_so_and_serves_its_clients() {
    for (permissions, subject) in [
        ("publish: { deny: [\"ipc-all\"] }", "publish on ipc-all"),
        ("subscribe: { deny: [\"ipc-all\"] }", "subscribe to ipc-all"),
        ("publish: { deny: [\"ipc-srv.>\"] }", "publish on ipc-srv."),
        ("subscribe: { deny: [\"ipc-srv.>\"] }", "subscribe to ipc-srv."),
    ] {
        let (_nats, [_, some]) = restricted(Version::Newest, permissions);
        let here = Running::start(serve(&["--port", "0", "--nats", &some]));
        let line = until_said(&here, "does not allow");
        assert!(line.contains(subject), "{line}");
        let mut subscriber = here.connected("app", "subscriber").subscribed("news");
        let mut publishes = here.connected("app", "publishes");
        for number in 0..100 {
            publishes.send("publish", "news", json!(number));
            assert_eq!(next_heard(&mut subscriber), number);
        }
        assert!(nats_of(&mut publishes, "denied") > 0);
    }
}
