//! `ipc serve` from the operator's point of view: checks, signals, service manager, log.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli::{Running, assert_fails, serve};
use crate::scratch::Scratch;
use crate::support::{HANG, Peer, code, eventually, until};

#[test]
fn a_check_says_everything_that_is_wrong_and_listens_on_nothing() {
    let scratch = Scratch::new("check");
    let open = scratch.file("open.token", 0o644, "secret\n");
    let text = format!(
        "port = 0\nprot = 1\nhandshake-timeout = \"soon\"\nmax-connections = 0\n\
         token-file = {open:?}\n[tokens]\napp = 424242\n"
    );
    let config = scratch.file("bad.toml", 0o600, &text);
    let checked = serve(&["--check-config", "--config", &config]).output().unwrap();
    let stderr = String::from_utf8(checked.stderr).unwrap();
    assert_eq!(checked.status.code(), Some(2), "{stderr}");
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines.len(), 3, "{stderr}");
    for (line, says) in lines.iter().zip(["line 2", "line 3", "line 6"]) {
        assert!(line.starts_with("ipc: ") && line.contains(says), "{line}");
    }
    assert!(!stderr.contains("424242"), "{stderr}");

    // The syntax of this file is correct, so the check reports the values that make no sense, all
    // at once.
    let text = format!(
        "max-connections = 0\nmax-memory = \"1MiB\"\ntoken-file = {open:?}\n\
         allow-uid = [1]\nhost = \"0.0.0.0\"\nmetrics = \"nowhere\"\n"
    );
    let config = scratch.file("worse.toml", 0o600, &text);
    let checked = serve(&["--check-config", "--config", &config]).output().unwrap();
    let stderr = String::from_utf8(checked.stderr).unwrap();
    assert_eq!(checked.status.code(), Some(2), "{stderr}");
    for says in ["max-connections", "max-memory", "chmod 600", "metrics"] {
        assert!(stderr.contains(says), "{says} is missing: {stderr}");
    }
    let checked = serve(&["--check-config", "--host", "0.0.0.0", "--allow-uid", "1"]).output();
    let stderr = String::from_utf8(checked.unwrap().stderr).unwrap();
    assert!(stderr.contains("--token-file") && stderr.contains("Unix socket"), "{stderr}");

    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let path = scratch.0.join("not made.sock");
    let arguments = ["--check-config", "--port", &port, "--unix", path.to_str().unwrap()];
    let checked = serve(&arguments).output().unwrap();
    assert_eq!(checked.status.code(), Some(0), "{}", String::from_utf8_lossy(&checked.stderr));
    assert!(String::from_utf8(checked.stdout).unwrap().contains("nothing is wrong"));
    assert!(checked.stderr.is_empty() && !path.exists());
}

/// Gives every connection an id of its own.
static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);

/// Connects with this token, and returns the answer.
fn connect(address: SocketAddr, token: &str) -> (Peer, Value) {
    let id = format!("c{}", CONNECTIONS.fetch_add(1, Ordering::Relaxed));
    let mut peer = Peer::new(address).called("app", &id);
    let answer = peer.introduce(Some(token)).unwrap();
    (peer, answer)
}

#[test]
fn sighup_changes_tokens_and_limits_and_closes_nobody() {
    let scratch = Scratch::new("reload");
    let token = scratch.file("token", 0o600, "first\n");
    let config = scratch.file("ipc.toml", 0o600, "max-connections = 5\n");
    let arguments = ["--port", "0", "--config", &config, "--token-file", &token];
    let running = Running::start(serve(&arguments));
    let (mut before, answer) = connect(running.address(), "first");
    assert_eq!(answer["payload"]["status"], "connected");

    scratch.file("token", 0o600, "second\n");
    scratch.file("ipc.toml", 0o600, "max-connections = 2\nport = 1\n");
    // A flag takes precedence over the file after a reload as well.
    let read_again = running.reload();
    assert!(read_again.contains("settings were read again"), "{read_again}");
    assert_eq!(code(&connect(running.address(), "first").1), "auth_failed");
    // The refused connection's place becomes free when the server has seen that it closed.
    let _after = eventually("a place", || {
        let (after, answer) = connect(running.address(), "second");
        let is_in = answer["payload"]["status"] == "connected";
        assert!(is_in || code(&answer) == "server_full", "{answer}");
        is_in.then_some(after)
    });
    assert_eq!(code(&Peer::new(running.address()).receive()), "server_full");
    before.fence();

    // A broken setting leaves everything as it was, and is reported.
    for (name, mode, text, says) in [
        ("token", 0o644, "third\n", "chmod 600"),
        ("token", 0o600, "\n", "is empty"),
        ("ipc.toml", 0o600, "max-connections = 0\n", "at least one"),
        ("ipc.toml", 0o600, "no settings at all", "line 1"),
    ] {
        let was = fs::read_to_string(scratch.0.join(name)).unwrap();
        scratch.file(name, mode, text);
        let said = running.reload();
        assert!(said.contains("stay as they were") && said.contains(says), "{said}");
        scratch.file(name, 0o600, &was);
    }
    let stats = before.stats();
    assert_eq!(stats["max_connections"], 2);

    scratch.file("ipc.toml", 0o600, "max-connections = 7\ndemo = true\n");
    let said = running.reload();
    assert!(said.contains("next start only") && said.contains("demo"), "{said}");
    let stats = before.stats();
    assert_eq!(stats["max_connections"], 7);
}

#[test]
fn a_reload_does_not_open_what_others_can_reach() {
    let scratch = Scratch::new("exposed");
    let config = scratch.file("ipc.toml", 0o600, "[tokens]\napp = \"own\"\n");
    let token = scratch.file("token", 0o600, "common\n");
    let own = format!("token-file = {token:?}\n");
    fs::write(&config, &own).unwrap();
    let running = Running::start(serve(&["--host", "0.0.0.0", "--port", "0", "--config", &config]));
    fs::write(&config, "insecure = true\n").unwrap();
    let said = running.reload();
    assert!(said.contains("stay as they were") && said.contains("no token"), "{said}");
    assert_eq!(code(&connect(running.address(), "guess").1), "auth_failed");
}

/// A service manager that receives the notifications of a server.
pub(crate) struct Manager {
    scratch: Scratch,
    socket: UnixDatagram,
}

impl Manager {
    pub(crate) fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let socket = UnixDatagram::bind(scratch.0.join("notify.sock")).unwrap();
        socket.set_read_timeout(Some(HANG)).unwrap();
        Self { scratch, socket }
    }

    /// Passes the socket to a server and starts it.
    pub(crate) fn start(&self, mut command: Command) -> Running {
        command.env("NOTIFY_SOCKET", self.scratch.0.join("notify.sock"));
        Running::start(command)
    }

    /// Expects that nothing comes within the time.
    pub(crate) fn hear_within(&self, time: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let mut bytes = [0; 1_024];
        let length = self.socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..length].into()).unwrap())
    }

    /// Receives notifications until the first line of one is this, and returns that one.
    pub(crate) fn hear(&self, expected: &str) -> String {
        let mut seen = Vec::new();
        loop {
            let text = self.hear_within(HANG).unwrap_or_else(|| panic!("only {seen:?}"));
            if text.lines().next() == Some(expected) {
                return text;
            }
            seen.push(text);
        }
    }

    /// Fills the socket, so that it takes nothing more until somebody reads.
    pub(crate) fn fill(&self) {
        let filler = UnixDatagram::unbound().unwrap();
        filler.set_nonblocking(true).unwrap();
        while filler.send_to(b"X=1", self.scratch.0.join("notify.sock")).is_ok() {}
    }
}

/// In containers and on older systems this socket is not a file.
#[test]
#[cfg(target_os = "linux")]
fn a_service_manager_that_listens_on_an_abstract_address_hears_it_too() {
    use std::os::linux::net::SocketAddrExt as _;
    let name = format!("ipc-framework-notify-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    socket.set_read_timeout(Some(HANG)).unwrap();
    let mut command = serve(&["--port", "0"]);
    command.env("NOTIFY_SOCKET", format!("@{name}"));
    let running = Running::start(command);
    let mut bytes = [0; 1_024];
    let length = socket.recv(&mut bytes).unwrap();
    assert_eq!(&bytes[..length], b"READY=1\n");
    drop(running);
}

#[test]
fn the_service_manager_hears_that_it_is_ready_alive_reloading_and_stopping() {
    let manager = Manager::new("notify");
    let mut command = serve(&["--port", "0"]);
    command.env("WATCHDOG_USEC", "200000");
    let running = manager.start(command);
    manager.hear("READY=1");
    for _ in 0..3 {
        manager.hear("WATCHDOG=1");
    }
    running.signal("HUP");
    let reloading = manager.hear("RELOADING=1");
    let since = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(since.is_some_and(|time| time.parse::<u64>().unwrap() > 0), "{reloading}");
    manager.hear("READY=1");
    running.signal("TERM");
    manager.hear("STOPPING=1");
    running.end_well();
}

/// Attaches `strace`, which makes the kernel treat a system call of the server's main thread as
/// told.
pub(crate) struct Tracer(Child);

impl Tracer {
    pub(crate) fn attach(running: &Running, call: &str, how: &str) -> Self {
        let tracer = Command::new("strace")
            .args(["-qq", "-o", "/dev/null", "-p", &running.id().to_string()])
            .args(["-e", &format!("trace={call}"), "-e", &format!("inject={call}:{how}")])
            .stderr(Stdio::null())
            .spawn()
            .expect("strace; `apt-get install strace` brings it");
        let status = format!("/proc/{}/status", running.id());
        let is_traced = |status: &String| !status.lines().any(|line| line == "TracerPid:\t0");
        until("strace", || fs::read_to_string(&status).unwrap(), is_traced);
        Self(tracer)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A loop that hangs is not alive, even if its other threads are.
#[test]
fn a_loop_that_hangs_is_silent() {
    let manager = Manager::new("watchdog");
    let mut command = serve(&["--port", "0"]);
    command.env("WATCHDOG_USEC", "100000");
    let running = manager.start(command);
    // Only the main thread is held up, as a debugger would do.
    let tracer = Tracer::attach(&running, "epoll_wait", "delay_enter=3s");
    let second = Duration::from_secs(1);
    until("its silence", || manager.hear_within(second), Option::is_none);
    drop(tracer);
    // When the loop goes on, it reports again that it is alive.
    manager.hear("WATCHDOG=1");
}

#[test]
fn it_listens_on_the_sockets_it_is_given_and_on_no_others() {
    let scratch = Scratch::new("inherited");
    let tcp = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let path = scratch.0.join("given.sock");
    let unix = UnixListener::bind(&path).unwrap();
    // Passes sockets as the service manager does: descriptors from 3 on, and the process id.
    let given = |arguments: &str| {
        let (tcp, unix) = (tcp.as_raw_fd(), unix.as_raw_fd());
        let program = serve(&[]);
        let mut command = Command::new("bash");
        command.args([
            "-c",
            &format!(
                "exec 30<&{tcp} 31<&{unix} && exec 3<&30 4<&31 30<&- 31<&- && \
             LISTEN_PID=$$ LISTEN_FDS=2 exec {:?} serve {arguments}",
                program.get_program()
            ),
        ]);
        command.env("NO_COLOR", "1").env_remove("IPC_TOKEN");
        command
    };
    // Descriptors that Rust opens are closed by an exec.
    rustix::io::fcntl_setfd(&tcp, rustix::io::FdFlags::empty()).unwrap();
    rustix::io::fcntl_setfd(&unix, rustix::io::FdFlags::empty()).unwrap();
    assert_fails(given("--port 1"), 2, "sockets were passed");
    let running = Running::start(given("--demo"));
    let expected = [
        format!("listening on {}", tcp.local_addr().unwrap()),
        format!("listening on unix:{}", path.display()),
    ];
    let listening: Vec<&str> =
        running.banner.lines().filter(|line| line.starts_with("listening")).collect();
    assert_eq!(listening, expected);
    let mut peer = running.connected("bench", "tcp");
    assert_eq!(peer.request("echo", json!(1)), 1);
    let mut peer = Peer::over_unix(&path).unwrap();
    peer.connect("bench", "unix");
    assert_eq!(peer.request("echo", json!(2)), 2);
    drop(peer);
    running.terminate();
    assert!(path.exists(), "whoever made it removes it");
}

#[test]
fn whoever_is_refused_again_and_again_does_not_fill_the_log() {
    const REFUSED: usize = 500;
    let scratch = Scratch::new("flood");
    let token = scratch.file("token", 0o600, "right\n");
    let running = Running::start(serve(&["--port", "0", "--token-file", &token]));
    let begin = Instant::now();
    for _ in 0..REFUSED {
        let (mut peer, answer) = connect(running.address(), "wrong");
        assert_eq!(code(&answer), "auth_failed");
        peer.expect_end();
    }
    let stderr = running.terminate();
    let shown = stderr.lines().filter(|line| line.contains("refused a connection")).count();
    // 20 lines and a summary fit into each window of 10 seconds, and the refusals may touch one
    // window more at each end.
    let windows = begin.elapsed().as_secs() as usize / 10 + 2;
    assert!((1..=21 * windows).contains(&shown), "{shown} lines:\n{stderr}");
    // Every refusal is counted, in a line of its own or in a summary.
    let suppressed: usize = stderr
        .lines()
        .filter(|line| line.contains("more suppressed"))
        .filter_map(|line| line.split(" more suppressed").next()?.rsplit(' ').next()?.parse().ok())
        .chain([shown - suppressed_lines(&stderr)])
        .sum();
    assert_eq!(suppressed, REFUSED, "{stderr}");
}

/// Counts the summaries that name the event.
fn suppressed_lines(stderr: &str) -> usize {
    let named = |line: &&str| line.contains("more suppressed") && line.contains("refused a");
    stderr.lines().filter(named).count()
}

#[test]
fn a_panic_of_the_server_is_reported_and_aborts() {
    let mut command = serve(&["--port", "0"]);
    command.env("IPC_TEST_PANIC", "loop");
    let running = Running::start(command);
    // The server may have aborted before this is done.
    let _ = TcpStream::connect(running.address()).and_then(|mut stream| stream.read(&mut [0]));
    let (status, stderr) = running.end();
    assert_eq!(status.signal(), Some(6), "{stderr}");
    let version = env!("CARGO_PKG_VERSION");
    for says in [version, "src/cli/serve.rs:", "a test wants this", "Please report it", "main"] {
        assert!(stderr.contains(says), "{says} is missing: {stderr}");
    }
}

/// Collects all output of the server while tokens are used and misused.
#[test]
fn no_token_is_in_anything_that_the_server_says() {
    const TOKENS: [&str; 3] = ["the-common-secret", "the-own-secret", "a-wrong-guess"];
    let scratch = Scratch::new("secrets");
    let token = scratch.file("token", 0o600, "the-common-secret\n");
    let text = "[tokens]\nown = \"the-own-secret\"\n";
    let config = scratch.file("ipc.toml", 0o600, text);
    let log = scratch.0.join("latencies");
    let mut command = serve(&["--port", "0", "--token-file", &token, "--config", &config]);
    command.args(["--metrics", "127.0.0.1:0", "--latency-log"]).arg(&log).env("IPC_LOG", "trace");
    let running = Running::start(command);
    let mut said = running.banner.clone();
    for token in TOKENS {
        let (mut peer, answer) = connect(running.address(), token);
        said += &answer.to_string();
        if token == TOKENS[0] {
            for action in ["get_stats", "list_applications", "list_channels", "get_latency", "x"] {
                peer.send("request", "system", json!({"action": action}));
                said += &peer.receive().to_string();
            }
        }
    }
    // The first is a malformed connect that has a token, the second is no message.
    for body in [
        json!({"message_id": "", "app_id": "app", "channel_id": "system",
            "message_type": "request", "timestamp": 1,
            "payload": {"action": "connect", "connection_id": 7, "token": TOKENS[0]}})
        .to_string(),
        format!("{{\"token\": {:?}", TOKENS[0]),
    ] {
        let mut peer = running.peer();
        peer.send_body(body.as_bytes());
        said += &peer.receive().to_string();
    }
    let metrics = running.scrape("/metrics").unwrap();
    assert!(metrics.contains("ipc_memory_bytes"), "{metrics}");
    said += &metrics;
    // A reload does not repeat the contents of the files either.
    scratch.file("ipc.toml", 0o600, "[tokens]\nown = [\"the-own-secret\"]\n");
    running.signal("HUP");
    running.signal("USR1");
    let mut lines = running.stderr_lines();
    let mut missing = BTreeSet::from(["stay as they were", "statistics", "counter"]);
    while !missing.is_empty() {
        let line = lines.next().expect("it goes on");
        missing.retain(|text| !line.contains(text));
        said += &line;
    }
    drop(lines);
    running.signal("TERM");
    let (_, stderr) = running.end();
    said += &stderr;
    said += &fs::read_to_string(&log).unwrap();
    for token in TOKENS {
        assert!(!said.contains(token), "{token} is shown:\n{said}");
    }
}
