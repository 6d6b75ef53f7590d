//! A request over TLS. The client is on a thread of its own, so that its half of the cryptography
//! is not counted.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ipc_framework::client::{self, Endpoint, Options};
use ipc_framework::{Json, Server, Tls};
use rcgen::{CertificateParams, KeyPair};

use super::sockets;

pub(super) fn echoed() -> impl FnMut() {
    let files = Files::new();
    let mut config = sockets::config();
    config.tls = Some(
        Tls::from_files(&files.certificate, &files.key, None).expect("a certificate that is right"),
    );
    let mut server = Server::bind(config).expect("a place to listen");
    let answered = Arc::new(AtomicU64::new(0));
    let count = answered.clone();
    server.application("app", "The App").channel("echo").on_request(move |request| {
        count.fetch_add(1, Ordering::Relaxed);
        let payload = request.json();
        request.reply_json(&payload)
    });
    let port = server.addresses()[0].port().expect("a port");
    let mut options = Options::new("app");
    options.endpoint = Endpoint::tcp("localhost", port);
    options.tls = Some(client::Tls::with_ca(&files.certificate).expect("an authority"));
    // It ends when the server is gone.
    std::thread::spawn(move || {
        let payload = Json::from_serialize(&"x".repeat(45)).expect("text is JSON");
        let mut client = options.connect().expect("the server answers");
        while client.request("echo", &payload).is_ok() {}
    });
    let mut round = move || {
        let before = answered.load(Ordering::Relaxed);
        while answered.load(Ordering::Relaxed) == before {
            server.poll_once(None).expect("the loop runs");
        }
    };
    // The handshake is not measured.
    round();
    round
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("a certificate");
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let name = |what| directory.join(format!("bench-{}-{what}.pem", std::process::id()));
        let files = Self { certificate: name("certificate"), key: name("key") };
        fs::write(&files.certificate, certificate.pem()).expect("it is written");
        fs::write(&files.key, key.serialize_pem()).expect("it is written");
        for file in [&files.certificate, &files.key] {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("they are set");
        }
        files
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for file in [&self.certificate, &self.key] {
            let _ = fs::remove_file(file);
        }
    }
}
