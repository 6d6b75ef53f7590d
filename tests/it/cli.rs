//! The program, run as users run it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::scratch::Scratch;
use crate::support::{HANG, Peer, code};

pub(crate) fn ipc() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipc"));
    command.env("NO_COLOR", "1");
    // Nothing of the environment of the tests may change what is tested.
    let is_ours = |name: &str| name.starts_with("IPC_");
    let others = ["CARGO_PKG_NAME", "SSL_CERT_DIR"].map(str::to_owned);
    let names = std::env::vars().map(|(name, _)| name).filter(|name| is_ours(name));
    for name in names.chain(others) {
        command.env_remove(name);
    }
    command
}

pub(crate) fn serve(arguments: &[&str]) -> Command {
    let mut command = ipc();
    command.arg("serve").args(arguments);
    command
}

/// A running `ipc serve`, which is killed if the test does not end it.
pub(crate) struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: Mutex<Option<BufReader<ChildStderr>>>,
    addresses: Vec<SocketAddr>,
    pub(crate) banner: String,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        command.stderr(Stdio::piped());
        Self::start_with_stderr(command)
    }

    /// Starts the server and leaves its standard error where the command puts it.
    pub(crate) fn start_with_stderr(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (mut addresses, mut banner) = (Vec::new(), String::new());
        while !banner.contains("stop with Ctrl-C") {
            let mut line = String::new();
            assert!(stdout.read_line(&mut line).unwrap() > 0, "it ended early: {banner}");
            if let Some(address) = line.strip_prefix("listening on ") {
                addresses.extend(address.trim().parse::<SocketAddr>());
            }
            banner += &line;
        }
        let stderr = Mutex::new(child.stderr.take().map(BufReader::new));
        Self { child, stdout, stderr, addresses, banner }
    }

    pub(crate) fn peer(&self) -> Peer {
        Peer::new(self.addresses[0])
    }

    pub(crate) fn connected(&self, app_id: &str, connection_id: &str) -> Peer {
        let mut peer = self.peer();
        peer.connect(app_id, connection_id);
        peer
    }

    /// Connects a worker with a request that it does not answer, for which a drain waits, and the
    /// requester.
    pub(crate) fn unanswered(&self) -> (Peer, Peer) {
        let mut worker = self.connected("bench", "works").serving("slow");
        let mut asks = self.connected("bench", "asks");
        asks.send("request", "slow", json!(1));
        worker.receive();
        (worker, asks)
    }

    /// Scrapes its metrics. Returns the answer with its head.
    pub(crate) fn scrape(&self, path: &str) -> std::io::Result<String> {
        self.scrape_with(path, "application/openmetrics-text")
    }

    /// As [`scrape`](Self::scrape), and accepts this format.
    pub(crate) fn scrape_with(&self, path: &str, accept: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.metrics_address())?;
        stream.set_read_timeout(Some(HANG)).unwrap();
        let headers = format!("Host: localhost\r\nAccept: {accept}\r\nConnection: close");
        write!(stream, "GET {path} HTTP/1.1\r\n{headers}\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    pub(crate) fn metrics_address(&self) -> &str {
        let (_, address) = self.banner.split_once("metrics at http://").expect("it has metrics");
        address.split_once("/metrics").unwrap().0
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Writes new settings, and waits until they have been read. Returns the lines of the log
    /// meanwhile.
    pub(crate) fn reload(&self) -> String {
        self.signal("HUP");
        let mut said = String::new();
        for line in self.stderr_lines() {
            said += &line;
            if ["were read again", "stay as they were"].iter().any(|end| line.contains(end)) {
                return said;
            }
        }
        panic!("it ended: {said}");
    }

    /// Returns the lines that the server writes to standard error from here on. Another call
    /// continues where this one ended.
    pub(crate) fn stderr_lines(&self) -> impl Iterator<Item = String> + '_ {
        std::iter::from_fn(|| {
            let mut line = String::new();
            let mut stderr = self.stderr.lock().unwrap();
            let read = stderr.as_mut().expect("it is piped").read_line(&mut line).unwrap();
            (read > 0).then_some(line)
        })
    }

    /// Waits for the end, and returns the exit status and the standard error.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        let mut stderr = String::new();
        if let Some(pipe) = self.stderr.get_mut().unwrap() {
            pipe.read_to_string(&mut stderr).unwrap();
        }
        self.stdout.read_to_string(&mut self.banner).unwrap();
        (self.child.wait().unwrap(), stderr)
    }

    /// Waits for the end, which has to be a success, and returns the standard error.
    pub(crate) fn end_well(self) -> String {
        let (status, stderr) = self.end();
        assert_eq!(status.code(), Some(0), "{stderr}");
        stderr
    }

    /// Lets it drain and end in whichever way, and returns the standard error.
    pub(crate) fn end_by_term(self) -> String {
        self.signal("TERM");
        self.end().1
    }

    /// Lets it drain and end.
    pub(crate) fn terminate(self) -> String {
        self.signal("TERM");
        self.end_well()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command, which has to end by itself.
pub(crate) fn output(mut command: Command) -> Output {
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > HANG {
            let _ = child.kill();
            let _ = child.wait();
            panic!("it does not end: {command:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.wait_with_output().unwrap()
}

pub(crate) fn assert_fails(mut command: Command, exit_code: i32, says: &str) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(exit_code), "{stderr}");
    assert!(stdout.is_empty(), "nothing is listened on");
    assert_eq!(stderr.trim_end().lines().count(), 1, "one sentence: {stderr}");
    assert!(stderr.starts_with("ipc: ") && stderr.contains(says), "{stderr}");
}

#[test]
fn what_makes_no_sense_is_usage_and_the_rest_is_one() {
    let scratch = Scratch::new("failures");
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    assert_fails(serve(&["--port", &port]), 1, "another process listens there already");
    for way_out in ["no token is required", "--token-file", "--insecure"] {
        assert_fails(serve(&["--host", "0.0.0.0", "--port", "0"]), 2, way_out);
    }
    assert_fails(serve(&["--no-tcp"]), 2, "--unix");
    assert_fails(serve(&["--max-connections", "0"]), 2, "from 1 on");
    assert_fails(serve(&["--max-frame-bytes", "10"]), 2, "1KiB");
    assert_fails(serve(&["--config", "/does/not/exist"]), 1, "cannot read");
    let unknown = scratch.file("unknown.toml", 0o600, "port = 0\n\nprot = 1\n");
    assert_fails(serve(&["--config", &unknown]), 2, "line 3: unknown field `prot`");
    let wrong = scratch.file("wrong.toml", 0o600, "handshake-timeout = \"soon\"\n");
    assert_fails(serve(&["--config", &wrong]), 2, "such as 500ms");
    let open = scratch.file("open.token", 0o644, "secret\n");
    assert_fails(serve(&["--token-file", &open]), 1, "chmod 600");
    let tokens = scratch.file("open.toml", 0o644, "[tokens]\napp = \"secret\"\n");
    assert_fails(serve(&["--config", &tokens]), 1, "chmod 600");
    let absent = scratch.0.join("absent");
    let absent = absent.to_str().unwrap();
    let way_out = format!("{absent}: No such file or directory (os error 2); check its path");
    let key = scratch.file("key.pem", 0o600, "");
    for arguments in [&["--token-file", absent][..], &["--tls-cert", absent, "--tls-key", &key]] {
        assert_fails(serve(arguments), 1, &way_out);
        let mut request = ipc();
        request.args(["request", "echo"]).args(arguments);
        assert_fails(request, 1, &way_out);
    }
    let mut request = ipc();
    request.args(["request", "echo", "--tls-ca", absent]);
    assert_fails(request, 1, &way_out);
    let none = scratch.file("none.toml", 0o600, "max-connections = 0\n");
    assert_fails(serve(&["--config", &none]), 2, "at least one");
    let none = scratch.file("none.toml", 0o600, "max-channels = true\n");
    assert_fails(serve(&["--config", &none]), 2, "line 1: give a number from 1 on");
    let empty = scratch.file("empty.token", 0o600, "\n");
    assert_fails(serve(&["--token-file", &empty]), 2, "is empty");
    let mut level = serve(&["--port", "0"]);
    level.env("IPC_LOG", "loud");
    assert_fails(level, 2, "IPC_LOG");
    assert_fails(serve(&["--handshake-timeout", "5"]), 2, "such as 500ms");
    assert_fails(serve(&["--unix-mode", "9"]), 2, "octal");
    assert_fails(serve(&["--what"]), 2, "--what");
    assert_fails(serve(&["--port", "0", "--unix-mode", "0600"]), 2, "give --unix PATH");
    assert_fails(serve(&["--no-tcp", "--port", "1", "--unix", "x"]), 2, "--port");
    assert_fails(serve(&["--no-tcp", "--host", "localhost", "--unix", "x"]), 2, "--host");
    let both = scratch.file("both.toml", 0o600, "no-tcp = true\nport = 1\nunix = \"x\"\n");
    assert_fails(serve(&["--config", &both]), 2, "leave out one");
    for written in ["true", "1.5", "[5]"] {
        let text = format!("port = 0\nhandshake-timeout = {written}\n");
        let typed = scratch.file("typed.toml", 0o600, &text);
        assert_fails(
            serve(&["--config", &typed]),
            2,
            "line 2: give text in quotes, such as \"5s\"",
        );
    }
    let mut garbled = serve(&["--port", "0"]);
    garbled
        .env("IPC_TOKEN", <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff"));
    assert_fails(garbled, 2, "not UTF-8");
    let secret = scratch.file("secret.toml", 0o600, "[tokens]\napp = 424242\n");
    let shown = serve(&["--config", &secret]).output().unwrap().stderr;
    assert!(!String::from_utf8_lossy(&shown).contains("424242"));
    assert_fails(serve(&["--config", &secret]), 2, "not text in quotes");
}

#[test]
fn help_names_every_flag() {
    let help = String::from_utf8(serve(&["--help"]).output().unwrap().stdout).unwrap();
    for flag in [
        "--host",
        "--port",
        "--unix",
        "--unix-mode",
        "--no-tcp",
        "--max-connections",
        "--max-frame-bytes",
        "--handshake-timeout",
        "--idle-timeout",
        "--request-timeout",
        "--queue-high-water",
        "--slow-consumer-grace",
        "--max-channels",
        "--max-subscriptions",
        "--drain-timeout",
        "--token-file",
        "--insecure",
        "--config",
        "--log-format",
        "--demo",
        "IPC_TOKEN",
        "IPC_PORT",
        "IPC_CONFIG",
        "/healthz",
    ] {
        assert!(help.contains(flag), "{flag} is missing:\n{help}");
    }
}

#[test]
fn the_demo_answers_on_both_families_and_drains_on_a_signal() {
    let running = Running::start(serve(&["--demo", "--port", "0"]));
    assert_eq!(running.addresses.len(), 2, "{}", running.banner);
    assert!(running.banner.contains("try: "), "{}", running.banner);
    let mut worker = Peer::new(running.addresses[1]);
    worker.connect("bench", "worker");
    worker.serve("held");
    let mut peer = running.connected("bench", "asks");
    assert_eq!(peer.request("echo", json!({"a": [1]})), json!({"a": [1]}));
    let id = peer.send("request", "held", json!(1));
    let task = worker.receive();
    running.signal("TERM");
    assert_eq!(code(&peer.receive()), "shutting_down");
    worker.answer(&task, json!("in flight"));
    peer.expect_answer(&id, "in flight");
    peer.expect_end();
    drop((peer, worker));
    running.end_well();
}

#[test]
fn a_drain_ends_at_its_deadline_and_a_second_signal_at_once() {
    for second in [false, true] {
        let timeout = if second { "1h" } else { "300ms" };
        let arguments = ["--demo", "--port", "0", "--drain-timeout", timeout];
        let running = Running::start(serve(&arguments));
        let mut peer = running.connected("bench", "never answers itself").serving("held");
        peer.send("request", "held", json!(1));
        assert_eq!(peer.receive()["message_type"], "request");
        running.signal("INT");
        assert_eq!(code(&peer.receive()), "shutting_down");
        if second {
            running.signal("INT");
        }
        let (status, stderr) = running.end();
        assert_eq!(status.code(), Some(if second { 130 } else { 0 }), "{stderr}");
    }
}

#[test]
fn flags_go_before_the_file_and_tokens_are_asked_for() {
    let scratch = Scratch::new("config");
    let text = "port = 1\nmax-connections = 7\nhandshake-timeout = \"9s\"\n\
                max-frame-bytes = \"64KiB\"\n[tokens]\nbilling = \"own\"\n";
    let config = scratch.file("ipc.toml", 0o600, text);
    let mut command = serve(&["--config", &config, "--port", "0", "--max-connections", "9"]);
    command.env("IPC_TOKEN", "common");
    let running = Running::start(command);
    let connect = |app_id: &str, token: &str| {
        let mut peer = running.peer().called(app_id, "c");
        let answer = peer.introduce(Some(token)).unwrap();
        (peer, answer)
    };
    for (app_id, token) in [("billing", "common"), ("any", "own"), ("any", "")] {
        assert_eq!(code(&connect(app_id, token).1), "auth_failed");
    }
    assert_eq!(connect("billing", "own").1["payload"]["status"], "connected");
    let (mut peer, answer) = connect("any", "common");
    assert_eq!(answer["payload"]["status"], "connected");
    let stats = peer.stats();
    assert_eq!(stats["max_connections"], 9);
    let seen = peer.request("system", json!({"action": "list_applications"}));
    assert!(seen.get("billing").is_none(), "with tokens, others are not shown: {seen}");
    peer.send("request", "x", json!("y".repeat(65 << 10)));
    assert_eq!(code(&peer.receive()), "frame_too_large");
    let stderr = running.terminate();
    let line = stderr.lines().find(|line| line.contains("frame_too_large")).expect(&stderr);
    assert!(line.contains("closed a connection because of what it sent"), "{line}");
    assert!(line.contains("over the limit of 65536; send smaller messages, or raise"), "{line}");
    let refused = stderr.lines().filter(|line| line.contains("refused a connection"));
    assert!(refused.clone().count() > 0, "{stderr}");
    assert!(refused.into_iter().all(|line| line.contains("auth_failed")), "{stderr}");
}

#[test]
fn a_unix_socket_alone_and_a_log_of_json_lines() {
    let scratch = Scratch::new("unix");
    let path = scratch.socket();
    let path = path.to_str().unwrap();
    let arguments =
        ["--no-tcp", "--unix", path, "--unix-mode", "0660", "--log-format", "json", "--demo"];
    let running = Running::start(serve(&arguments));
    assert!(running.banner.contains(&format!("listening on unix:{path}")), "{}", running.banner);
    assert!(running.addresses.is_empty());
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o660);
    let stderr = running.terminate();
    assert!(stderr.contains("draining"), "{stderr}");
    for line in stderr.lines() {
        serde_json::from_str::<Value>(line).expect("a JSON document a line");
    }
}

#[test]
fn the_demo_has_the_published_applications() {
    let running = Running::start(serve(&["--demo", "--port", "0"]));
    let mut bob = running.connected("chat_app", "bob").subscribed("general");
    let mut ada = running.connected("chat_app", "ada");
    let said = json!({"username": "Ada", "text": "hello"});
    assert_eq!(ada.request("general", said), json!({"status": "ok"}));
    let heard = bob.receive();
    assert_eq!(heard["message_type"], "notification");
    let expected =
        json!({"type": "chat_message", "username": "Ada", "text": "hello", "timestamp": 1.25});
    assert_eq!(heard["payload"], expected);
    ada.send("notification", "general", json!({}));
    let joined = bob.receive()["payload"].clone();
    assert_eq!(
        (&joined["type"], &joined["username"]),
        (&json!("user_joined"), &json!("Anonymous"))
    );

    let mut files = running.connected("file_share", "files").subscribed("status");
    files.send("request", "upload", json!({"filename": "a.txt", "size": 3}));
    let progress = json!({
        "type": "upload_progress", "filename": "a.txt", "progress": 100, "status": "completed",
    });
    assert_eq!(files.receive()["payload"], progress);
    assert_eq!(files.receive()["payload"], json!({"status": "ok"}));
    let download = files.request("download", json!({"filename": "a.txt"}));
    assert_eq!(download["download_url"], "http://example.com/files/a.txt");
    assert!(download["expires_at"].as_f64().unwrap() > 1e9);

    let mut monitor = running.connected("monitoring", "monitor").subscribed("alerts");
    monitor.send("notification", "metrics", json!({"metric": "cpu_usage", "value": 80}));
    monitor.send("notification", "metrics", json!({"metric": "cpu_usage", "value": 93.5}));
    assert_eq!(monitor.receive()["payload"]["value"], 93.5);
}

#[test]
fn the_longest_timeouts_are_none() {
    let age = "300000000000years";
    let mut arguments = vec!["--demo", "--port", "0"];
    let timeouts = ["--handshake-timeout", "--idle-timeout", "--drain-timeout"];
    for flag in timeouts.into_iter().chain(["--request-timeout", "--slow-consumer-grace"]) {
        arguments.extend([flag, age]);
    }
    let running = Running::start(serve(&arguments));
    let mut peer = running.connected("bench", "asks");
    assert_eq!(peer.request("echo", json!(1)), 1);
    running.signal("TERM");
    assert_eq!(code(&peer.receive()), "shutting_down");
    peer.expect_end();
    drop(peer);
    running.end_well();
}

#[test]
fn a_server_nobody_is_connected_to_ends_at_once() {
    let running = Running::start(serve(&["--port", "0", "--drain-timeout", "1h"]));
    let begin = Instant::now();
    running.terminate();
    assert!(begin.elapsed() < HANG, "it waited for nobody");
}

/// Starts `ipc serve` from a shell that lowers a limit first.
fn limited(limit: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{limit} && exec \"$0\" serve \"$@\"")])
        .arg(env!("CARGO_BIN_EXE_ipc"))
        .args(arguments)
        .env_remove("IPC_TOKEN")
        .env_remove("IPC_LOG");
    command
}

#[test]
fn a_low_soft_limit_on_descriptors_is_raised() {
    const SOFT_LIMIT: usize = 64;
    let arguments = ["--demo", "--port", "0", "--max-connections", "200"];
    let limit = format!("ulimit -Sn {SOFT_LIMIT}");
    let running = Running::start(limited(&limit, &arguments));
    let mut peers: Vec<Peer> =
        (0..SOFT_LIMIT + 20).map(|at| running.connected("bench", &format!("{at}"))).collect();
    for peer in &mut peers {
        peer.fence();
    }
    let stats = peers[0].stats();
    assert_eq!((&stats["counters"]["shed"], &stats["max_connections"]), (&json!(0), &json!(200)));
    if cfg!(target_os = "linux") {
        let limits = fs::read_to_string(format!("/proc/{}/limits", running.child.id())).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let soft: usize = line.split_whitespace().nth(3).unwrap().parse().unwrap();
        assert!(soft >= 200, "{line}");
    }
}

#[test]
fn a_hard_limit_on_descriptors_lets_fewer_in_or_none() {
    assert_fails(limited("ulimit -n 100", &["--port", "0"]), 1, "raise `ulimit -Hn`");
    let running = Running::start(limited("ulimit -n 140", &["--port", "0"]));
    let mut peer = running.connected("app", "one");
    let allowed = peer.stats()["max_connections"].clone();
    let allowed = allowed.as_u64().unwrap();
    assert!((1..140).contains(&allowed), "{allowed}");
    let others: Vec<Peer> =
        (1..allowed).map(|at| running.connected("app", &format!("{at}"))).collect();
    // The server needs a descriptor to tell one connection too many that it is full.
    assert_eq!(code(&running.peer().receive()), "server_full");
    drop((peer, others));
    let stderr = running.terminate();
    assert!(stderr.contains("fewer open files"), "{stderr}");
}

#[test]
fn the_file_says_what_flags_say() {
    let scratch = Scratch::new("file");
    let text = "host = \"127.0.0.1\"\nport = 0\ndemo = true\nlog-format = \"json\"\n\
                idle-timeout = 0\nhandshake-timeout = \"9s\"\n";
    let config = scratch.file("ipc.toml", 0o644, text);
    let running = Running::start(serve(&["--config", &config]));
    assert_eq!(running.addresses.len(), 1, "{}", running.banner);
    let mut peer = running.connected("bench", "asks");
    assert_eq!(peer.request("echo", json!("demo")), "demo");
    running.signal("TERM");
    assert_eq!(code(&peer.receive()), "shutting_down");
    drop(peer);
    let stderr = running.end_well();
    assert!(stderr.contains("draining"), "{stderr}");
    for line in stderr.lines() {
        serde_json::from_str::<Value>(line).expect("a JSON document a line");
    }
}

#[test]
fn an_ipv6_address_may_stand_in_brackets() {
    // Not every machine has IPv6.
    if TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    let running = Running::start(serve(&["--host", "[::1]", "--port", "0"]));
    assert!(running.addresses.len() == 1 && running.addresses[0].is_ipv6(), "{}", running.banner);
    let mut peer = running.connected("app", "one");
    peer.fence();
}

#[test]
fn what_a_peer_calls_itself_writes_no_lines_into_the_log() {
    let mut command = serve(&["--port", "0"]);
    command.env("IPC_LOG", "debug");
    let running = Running::start(command);
    let mut peer = running.connected("evil\n\u{1b}[31mERROR all is lost\r\u{9b}1m", "one");
    peer.fence();
    drop(peer);
    let stderr = running.terminate();
    let shown = stderr.lines().find(|line| line.contains("all is lost"));
    let shown = shown.expect("it is shown");
    assert!(shown.contains("DEBUG") && shown.contains("evil"), "one line with both: {stderr}");
    let controls = stderr.chars().filter(|c| c.is_control() && *c != '\n').count();
    assert_eq!(controls, 0, "{stderr:?}");
}
