//! A server on a thread of its own, and a peer that speaks the wire format by hand.

use std::cell::RefCell;
use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipc_framework::{Address, Config, Error, Handle, Limits, Responder, Server, Stats};
use serde_json::{Value, json};
use socket2::SockRef;

/// Long enough to never end a test that works, even on a machine that is fully loaded, and short
/// enough to end one that hangs.
pub(crate) const HANG: Duration = Duration::from_secs(60);

/// Repeats a test of a property that a busy machine can spoil, such as a ratio of two times. One
/// good round of several is enough.
pub(crate) fn succeeds_once(mut round: impl FnMut() -> Result<(), String>) {
    const ROUNDS: usize = 5;
    let mut failures = Vec::new();
    while let Err(failure) = round() {
        failures.push(failure);
        assert!(failures.len() < ROUNDS, "in {ROUNDS} rounds:\n{}", failures.join("\n"));
    }
}

/// Returns a free port that stays free until the test uses it. The kernel hands none of these out,
/// neither to outgoing connections nor to listeners that ask for any port, and other tests make
/// thousands of both.
pub(crate) fn reserved_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 10_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Other processes that run tests begin at other ports.
    let offset = (std::process::id() % u32::from(COUNT)) as u16;
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(offset.wrapping_mul(37));
        let port = FIRST + next % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// A server that is stopped and joined when the test ends.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    pub(crate) handle: Handle,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

/// Starts a server on a free port.
pub(crate) fn serve(config: Config, set_up: impl FnOnce(&mut Server)) -> TestServer {
    serve_as_told(config.port(0), set_up)
}

/// Starts a server on the port that the configuration names.
pub(crate) fn serve_as_told(config: Config, set_up: impl FnOnce(&mut Server)) -> TestServer {
    serve_by(config, set_up, |mut server| server.run())
}

/// Starts a server that is run like this.
pub(crate) fn serve_by(
    config: Config,
    set_up: impl FnOnce(&mut Server),
    run: impl FnOnce(Server) -> Result<(), Error> + Send + 'static,
) -> TestServer {
    let mut server = Server::bind(config).expect("a free port");
    set_up(&mut server);
    let address = server.addresses().iter().find_map(Address::tcp).expect("a TCP address");
    let handle = server.handle();
    let thread = std::thread::spawn(move || run(server));
    TestServer { address, handle, thread: Some(thread) }
}

/// Starts a server with the default configuration and the `echo` channel of the app `app`.
pub(crate) fn serve_echo() -> TestServer {
    serve(Config::default(), install_echo)
}

/// Starts such a server with other limits.
pub(crate) fn serve_limited(limits: Limits) -> TestServer {
    serve(Config::default().limits(limits), install_echo)
}

pub(crate) fn install_echo(server: &mut Server) {
    server.application("app", "The App").channel("echo").on_request(|request| {
        let payload = request.json();
        request.reply_json(&payload)
    });
}

/// Installs a channel whose requests are handed to the test, which answers them.
pub(crate) fn install_later(server: &mut Server) -> Receiver<Responder> {
    let (sender, responders) = channel();
    server.application("app", "The App").channel("later").on_request(move |request| {
        let (reply, responder) = request.defer()?;
        sender.send(responder)?;
        Ok(reply)
    });
    responders
}

/// Runs the same code on several threads at a time.
pub(crate) fn together(threads: usize, work: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let work = &work;
            scope.spawn(move || work(thread));
        }
    });
}

/// Tries again and again until there is a value.
pub(crate) fn eventually<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let found = RefCell::new(None);
    until(what, || *found.borrow_mut() = find(), |()| found.borrow().is_some());
    found.into_inner().unwrap()
}

/// Checks again and again until the condition holds.
pub(crate) fn until<T: Debug>(
    what: &str,
    look: impl FnMut() -> T,
    is_so: impl FnMut(&T) -> bool,
) -> T {
    until_within(HANG, what, look, is_so)
}

pub(crate) fn until_within<T: Debug>(
    longest: Duration,
    what: &str,
    mut look: impl FnMut() -> T,
    mut is_so: impl FnMut(&T) -> bool,
) -> T {
    let begin = Instant::now();
    loop {
        let seen = look();
        if is_so(&seen) {
            return seen;
        }
        assert!(begin.elapsed() < longest, "{what} does not come: {seen:?}");
        // Yields the processor to the server. The test concludes nothing from the time.
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl TestServer {
    pub(crate) fn peer(&self) -> Peer {
        Peer::new(self.address)
    }

    /// Connects a peer that completes the handshake.
    pub(crate) fn connected(&self, app_id: &str, connection_id: &str) -> Peer {
        let mut peer = self.peer();
        peer.connect(app_id, connection_id);
        peer
    }

    pub(crate) fn stats(&self) -> Stats {
        self.handle.stats().expect("the server runs")
    }

    /// Polls the statistics until they satisfy the condition.
    pub(crate) fn wait_until(&self, what: &str, says_so: impl Fn(&Stats) -> bool) -> Stats {
        until(what, || self.stats(), says_so)
    }

    /// Drains the server and waits for its end.
    pub(crate) fn stop(mut self) {
        self.join();
    }

    fn join(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the loop does not panic").expect("the loop does not fail");
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.join();
        }
    }
}

/// A client that is only a socket, or a TLS session on one.
pub(crate) struct Peer<S = TcpStream> {
    pub(crate) stream: S,
    pub(crate) app_id: String,
    pub(crate) connection_id: String,
    next_id: u64,
}

impl Peer {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    /// Connects over a Unix socket. The standard library's TCP stream reads and writes any socket.
    pub(crate) fn over_unix(path: &Path) -> io::Result<Self> {
        Ok(Self::over(OwnedFd::from(UnixStream::connect(path)?).into()))
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(HANG)).unwrap();
        stream.set_write_timeout(Some(HANG)).unwrap();
        Self::speaking(stream)
    }

    /// Makes the receive buffer small; otherwise the kernel would read megabytes for a peer that
    /// does not read.
    pub(crate) fn read_nothing_early(&self, kernel_bytes: usize) {
        SockRef::from(&self.stream).set_recv_buffer_size(kernel_bytes).unwrap();
    }

    /// Clones the connection for another thread, which reads while this one writes.
    pub(crate) fn reader(&self) -> Self {
        let next_id = 1 << 32;
        let reader = Self { next_id, ..Self::speaking(self.stream.try_clone().unwrap()) };
        reader.called(&self.app_id, &self.connection_id)
    }
}

impl<S: Read + Write> Peer<S> {
    pub(crate) fn speaking(stream: S) -> Self {
        Self { stream, app_id: String::new(), connection_id: String::new(), next_id: 0 }
    }

    /// Sets the names that its messages carry from here on, and sends nothing.
    pub(crate) fn called(mut self, app_id: &str, connection_id: &str) -> Self {
        app_id.clone_into(&mut self.app_id);
        connection_id.clone_into(&mut self.connection_id);
        self
    }

    /// Completes the handshake, and returns the answer.
    pub(crate) fn introduce(&mut self, token: Option<&str>) -> io::Result<Value> {
        let mut payload = json!({"action": "connect", "connection_id": self.connection_id});
        if let Some(token) = token {
            payload["token"] = json!(token);
        }
        let connect = self.message("request", "system", &payload);
        // A connection that is turned away may be closed before it has sent anything.
        self.stream.write_all(&frames([&connect]))?;
        self.try_receive()
    }

    pub(crate) fn connect(&mut self, app_id: &str, connection_id: &str) {
        app_id.clone_into(&mut self.app_id);
        connection_id.clone_into(&mut self.connection_id);
        let answer = self.introduce(None).expect("an answer");
        let server = concat!("ipc-framework/", env!("CARGO_PKG_VERSION"));
        let connected =
            json!({"status": "connected", "connection_id": connection_id, "server": server});
        assert_eq!(answer["payload"], connected, "{answer}");
        assert_eq!(answer["reply_to"], Value::Null, "{answer}");
        assert_eq!(answer["channel_id"], "system", "{answer}");
    }

    /// Completes the handshake under the names that it has, and gets these extensions.
    pub(crate) fn asking_for(mut self, extensions: &[&str]) -> Self {
        let connection_id = self.connection_id.clone();
        let payload = json!({"action": "connect", "connection_id": connection_id,
            "extensions": extensions});
        self.send("request", "system", payload);
        assert_eq!(self.receive_extended()["payload"]["extensions"], json!(extensions));
        self
    }

    /// Sends a message with the next id, and returns that id.
    #[expect(clippy::needless_pass_by_value, reason = "calls read better with json!(…)")]
    pub(crate) fn send(&mut self, message_type: &str, channel_id: &str, payload: Value) -> String {
        let message = self.message(message_type, channel_id, &payload);
        let id = message["message_id"].as_str().unwrap().to_owned();
        self.send_message(&message);
        id
    }

    pub(crate) fn message(
        &mut self,
        message_type: &str,
        channel_id: &str,
        payload: &Value,
    ) -> Value {
        self.next_id += 1;
        json!({
            "message_id": format!("{}-{}", self.connection_id, self.next_id),
            "app_id": self.app_id,
            "channel_id": channel_id,
            "message_type": message_type,
            "payload": payload,
            "timestamp": 1.25,
            "reply_to": null,
        })
    }

    pub(crate) fn send_message(&mut self, message: &Value) {
        self.send_body(message.to_string().as_bytes());
    }

    /// Sends messages in one write.
    pub(crate) fn send_all<'a>(&mut self, messages: impl IntoIterator<Item = &'a Value>) {
        self.stream.write_all(&frames(messages)).expect("the server takes them");
    }

    /// Sends a frame with any body.
    pub(crate) fn send_body(&mut self, body: &[u8]) {
        let bytes = frame(body);
        self.stream.write_all(&bytes).expect("the server takes a frame");
    }

    /// Returns the next frame, and checks that a published peer would survive it.
    pub(crate) fn receive(&mut self) -> Value {
        self.try_receive().expect("a frame before the stream ends")
    }

    /// Returns the body of the next frame as it came, or the error that ended the stream.
    pub(crate) fn try_receive_body(&mut self) -> io::Result<Vec<u8>> {
        let mut header = [0; 4];
        self.stream.read_exact(&mut header)?;
        let mut body = vec![0; u32::from_be_bytes(header) as usize];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }

    /// Returns the next frame of a peer with an extension, which may have an eighth key.
    pub(crate) fn receive_extended(&mut self) -> Value {
        let body = self.try_receive_body().expect("a frame before the stream ends");
        serde_json::from_slice(&body).expect("every frame is JSON")
    }

    /// Returns the next frame, or the error that ended the stream.
    pub(crate) fn try_receive(&mut self) -> io::Result<Value> {
        let body = self.try_receive_body()?;
        let message: Value = serde_json::from_slice(&body).expect("every frame is JSON");
        let keys: Vec<&str> = message.as_object().unwrap().keys().map(String::as_str).collect();
        let expected = [
            "app_id",
            "channel_id",
            "message_id",
            "message_type",
            "payload",
            "reply_to",
            "timestamp",
        ];
        assert_eq!(keys, expected, "a published peer survives exactly these keys");
        Ok(message)
    }

    /// Expects that the next frame is an error with this code, for this channel and message.
    pub(crate) fn expect_error(
        &mut self,
        expected: &str,
        channel_id: &str,
        reply_to: impl Into<Value>,
    ) {
        let error = self.receive();
        assert_eq!(code(&error), expected, "{error}");
        assert_eq!(error["message_type"], "response", "{error}");
        assert_eq!(error["channel_id"], channel_id, "{error}");
        assert_eq!(error["reply_to"], reply_to.into(), "{error}");
    }

    /// Sends a message, and expects that it is refused.
    pub(crate) fn expect_refusal(
        &mut self,
        message_type: &str,
        channel_id: &str,
        payload: Value,
        expected: &str,
    ) {
        let id = self.send(message_type, channel_id, payload);
        self.expect_error(expected, channel_id, id);
    }

    /// Expects the error that says why the server closes, and the end.
    pub(crate) fn expect_closed(&mut self, expected: &str) {
        self.expect_error(expected, "system", Value::Null);
        self.expect_end();
    }

    /// Answers a request that it received as a worker.
    pub(crate) fn answer(&mut self, task: &Value, payload: impl Into<Value>) {
        let channel_id = task["channel_id"].as_str().expect("a request has a channel");
        let mut answer = self.message("response", channel_id, &payload.into());
        answer["reply_to"] = task["message_id"].clone();
        self.send_message(&answer);
    }

    /// Expects that the next frame is this answer.
    pub(crate) fn expect_answer(&mut self, reply_to: &str, payload: impl Into<Value>) {
        let answer = self.receive();
        assert_eq!(answer["message_type"], "response", "{answer}");
        let said = (&answer["reply_to"], &answer["payload"]);
        assert_eq!(said, (&json!(reply_to), &payload.into()), "{answer}");
    }

    /// Returns the server's statistics.
    pub(crate) fn stats(&mut self) -> Value {
        self.request("system", json!({"action": "get_stats"}))
    }

    /// Sends a request and returns the payload of its answer.
    pub(crate) fn request(&mut self, channel_id: &str, payload: Value) -> Value {
        let id = self.send("request", channel_id, payload);
        let answer = self.receive();
        assert_eq!(answer["reply_to"], id.as_str(), "{answer}");
        assert_eq!(answer["message_type"], "response", "{answer}");
        assert_eq!(answer["channel_id"], channel_id, "{answer}");
        answer["payload"].clone()
    }

    /// Waits until everything that was sent before is done, and checks that nothing else was on its
    /// way. A connection is processed in order, so an answered ping proves both.
    pub(crate) fn fence(&mut self) {
        assert_eq!(self.request("system", json!({"action": "ping"})), json!({"status": "pong"}));
    }

    pub(crate) fn subscribe(&mut self, channel_id: &str) {
        let payload = json!({"connection_id": self.connection_id, "ack": true});
        let id = self.send("subscribe", channel_id, payload);
        let answer = self.receive();
        assert_eq!(answer["reply_to"], id.as_str(), "{answer}");
        assert_eq!(answer["payload"], json!({"status": "subscribed"}));
    }

    /// Returns the same peer, subscribed to a channel.
    pub(crate) fn subscribed(mut self, channel_id: &str) -> Self {
        self.subscribe(channel_id);
        self
    }

    /// Returns the same peer as a worker of a channel.
    pub(crate) fn serving(mut self, channel_id: &str) -> Self {
        self.serve(channel_id);
        self
    }

    pub(crate) fn serve(&mut self, channel_id: &str) {
        let answer = self.request("system", json!({"action": "serve", "channel": channel_id}));
        assert_eq!(answer, json!({"status": "serving", "channel": channel_id}));
    }

    /// Expects that the server closes without another message.
    pub(crate) fn expect_end(&mut self) {
        let end = self.try_receive().expect_err("the stream ends");
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof, "{end}");
    }
}

pub(crate) fn frame(body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// Returns messages as they are sent, one behind the other.
pub(crate) fn frames<'a>(messages: impl IntoIterator<Item = &'a Value>) -> Vec<u8> {
    messages.into_iter().flat_map(|message| frame(message.to_string().as_bytes())).collect()
}

/// Returns the code of an error answer.
pub(crate) fn code(message: &Value) -> &str {
    assert_eq!(message["payload"]["status"], "error", "{message}");
    let text = message["payload"]["error"].as_str().expect("an error says what to do");
    assert!(text.len() > 10, "{message}");
    message["payload"]["code"].as_str().expect("an error has a code")
}
