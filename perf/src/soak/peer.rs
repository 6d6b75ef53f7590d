//! A client of a few lines, so that nothing of the project's own clients hides a fault. It keeps
//! the account of what it sends and gets.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};

use super::account::{Account, kind};

/// Nobody waits longer than this for anything: an answer that takes so long is lost.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Between two looks at something that comes about without a word.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
const FRAME_BYTES_MAX: usize = 16 << 20;
/// A frame has these and no others: the published client ends at any other.
const KEYS: [&str; 7] =
    ["app_id", "channel_id", "message_id", "message_type", "payload", "reply_to", "timestamp"];

#[derive(Clone, Debug)]
pub(super) enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Target {
    fn connect(&self) -> io::Result<Socket> {
        let (domain, address) = match self {
            Self::Tcp(address) => (Domain::for_address(*address), (*address).into()),
            Self::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
        };
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.connect(&address)?;
        if matches!(self, Self::Tcp(_)) {
            socket.set_tcp_nodelay(true)?;
        }
        socket.set_read_timeout(Some(ANSWER_MAX))?;
        socket.set_write_timeout(Some(ANSWER_MAX))?;
        Ok(socket)
    }
}

/// What the server cannot be said to have read yet: nothing behind it was answered.
#[derive(Debug, Default)]
struct Unread {
    frames: u64,
    bytes: u64,
    publications: u64,
}

#[derive(Debug)]
pub(super) struct Peer {
    socket: Socket,
    application: String,
    account: Rc<RefCell<Account>>,
    /// Messages sent. Each has its number as its id.
    sent: u64,
    unread: Unread,
    /// What waits for an answer, by its id.
    outstanding: HashMap<u64, &'static str>,
    pub(super) last_frame_bytes: u64,
    is_welcome: bool,
    is_worker: bool,
}

impl Peer {
    /// A connection that has said nothing yet.
    pub(super) fn raw(
        target: &Target,
        application: &str,
        account: &Rc<RefCell<Account>>,
    ) -> Result<Self, String> {
        let socket = target.connect().map_err(|error| format!("connect: {error}"))?;
        account.borrow_mut().expected.add("accepted", 1);
        Ok(Self {
            socket,
            application: application.to_owned(),
            account: Rc::clone(account),
            sent: 0,
            unread: Unread::default(),
            outstanding: HashMap::new(),
            last_frame_bytes: 0,
            is_welcome: false,
            is_worker: false,
        })
    }

    pub(super) fn connect(
        target: &Target,
        application: &str,
        id: &str,
        account: &Rc<RefCell<Account>>,
    ) -> Result<Self, String> {
        let mut peer = Self::raw(target, application, account)?;
        peer.introduce(&json!({"action": "connect", "connection_id": id}))?;
        Ok(peer)
    }

    /// Says who it is, and is let in.
    pub(super) fn introduce(&mut self, introduction: &Value) -> Result<(), String> {
        self.try_to_introduce(introduction)?;
        let answer = self.receive()?;
        let payload = &answer["payload"];
        let is_connected = payload["status"] == "connected"
            && payload["connection_id"] == introduction["connection_id"];
        if !is_connected || !answer["reply_to"].is_null() {
            return Err(format!("a connect was answered {}", excerpt(&answer)));
        }
        self.is_let_in();
        Ok(())
    }

    pub(super) fn try_to_introduce(&mut self, introduction: &Value) -> Result<(), String> {
        self.ask(kind::SYSTEM, "request", "system", introduction).map(drop)
    }

    /// The answer to the introduction, which names no message, came.
    pub(super) fn is_let_in(&mut self) {
        self.outstanding.clear();
        self.account.borrow_mut().done(kind::SYSTEM, 1);
        self.is_welcome = true;
        self.confirm();
    }

    /// Sends what is to be answered, and returns its id.
    pub(super) fn ask(
        &mut self,
        kind: &'static str,
        message_type: &str,
        channel: &str,
        payload: &Value,
    ) -> Result<u64, String> {
        self.account.borrow_mut().sent(kind, 1);
        let number = self.send(message_type, channel, payload, &Value::Null)?;
        self.outstanding.insert(number, kind);
        Ok(number)
    }

    pub(super) fn publish(&mut self, channel: &str, payload: &Value) -> Result<(), String> {
        self.account.borrow_mut().sent(kind::PUBLICATION, 1);
        self.unread.publications += 1;
        self.send("publish", channel, payload, &Value::Null).map(drop)
    }

    pub(super) fn notify(&mut self, channel: &str, payload: &Value) -> Result<(), String> {
        self.account.borrow_mut().sent(kind::NOTIFICATION, 1);
        self.send("notification", channel, payload, &Value::Null).map(drop)
    }

    pub(super) fn respond(&mut self, request: &Value, payload: &Value) -> Result<(), String> {
        let channel = request["channel_id"].as_str().ok_or("a request without a channel")?;
        self.send("response", channel, payload, &request["message_id"]).map(drop)
    }

    fn send(
        &mut self,
        message_type: &str,
        channel: &str,
        payload: &Value,
        reply_to: &Value,
    ) -> Result<u64, String> {
        self.sent += 1;
        let message = json!({"message_id": self.sent.to_string(), "app_id": self.application,
            "channel_id": channel, "message_type": message_type, "payload": payload,
            "timestamp": 1.5, "reply_to": reply_to});
        self.send_frame(message.to_string().as_bytes())?;
        Ok(self.sent)
    }

    pub(super) fn send_frame(&mut self, body: &[u8]) -> Result<(), String> {
        let length = u32::try_from(body.len()).map_err(|_| "a frame is too long")?;
        self.unread.frames += 1;
        self.send_bytes(&[&length.to_be_bytes()[..], body].concat())
    }

    pub(super) fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.unread.bytes += bytes.len() as u64;
        self.socket.write_all(bytes).map_err(|error| format!("send: {error}"))
    }

    /// The next message, whatever it is; nobody gets what is not meant for it.
    pub(super) fn receive(&mut self) -> Result<Value, String> {
        let mut header = [0; 4];
        self.read_exact(&mut header)?;
        let length = u32::from_be_bytes(header) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(format!("a frame of {length} B came"));
        }
        let mut body = vec![0; length];
        self.read_exact(&mut body)?;
        let message: Value =
            serde_json::from_slice(&body).map_err(|error| format!("no JSON came: {error}"))?;
        let has_its_keys = |object: &serde_json::Map<String, Value>| {
            object.len() == KEYS.len() && KEYS.iter().all(|key| object.contains_key(*key))
        };
        if !message.as_object().is_some_and(has_its_keys) {
            return Err(format!("no message of the protocol: {}", excerpt(&message)));
        }
        if self.is_welcome && message["app_id"] != self.application {
            return Err(format!("a message for another application: {}", excerpt(&message)));
        }
        self.last_frame_bytes = (header.len() + length) as u64;
        self.book(&message)?;
        Ok(message)
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), String> {
        self.socket.read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                format!("the server closed {}'s connection", self.application)
            }
            io::ErrorKind::WouldBlock => "nothing came, and something is due".to_owned(),
            _ => format!("receive: {error}"),
        })
    }

    fn book(&mut self, message: &Value) -> Result<(), String> {
        let account = &mut *self.account.borrow_mut();
        account.expected.add("frames_out", 1);
        account.expected.add("bytes_out", self.last_frame_bytes);
        match message["message_type"].as_str() {
            // A handler's words to the subscribers of its channel are notifications.
            Some("publish" | "notification") if !self.is_worker => {
                account.expected.add("deliveries", 1);
                account.done(kind::DELIVERY, 1);
                return Ok(());
            }
            Some("request") => {
                account.expected.add("forwarded", 1);
                return Ok(());
            }
            Some("notification") => {
                account.expected.add("forwarded", 1);
                account.done(kind::NOTIFICATION, 1);
                return Ok(());
            }
            Some("response") => {}
            _ => return Err(format!("a message of an unknown type: {}", excerpt(message))),
        }
        let payload = &message["payload"];
        let code = payload["code"].as_str().filter(|_| payload["status"] == "error");
        if let Some(code) = code {
            account.expected.add(&format!("errors.{code}"), 1);
        }
        if message["reply_to"].is_null() {
            return Ok(());
        }
        let kind = answered(message).and_then(|number| self.outstanding.remove(&number));
        let kind = kind.ok_or_else(|| format!("nobody waits for this: {}", excerpt(message)))?;
        match code {
            Some(code) => account.refused(kind, code),
            None => account.done(kind, 1),
        }
        Ok(())
    }

    /// All that was sent has been read by the server.
    pub(super) fn confirm(&mut self) {
        let Unread { frames, bytes, publications } = std::mem::take(&mut self.unread);
        let expected = &mut self.account.borrow_mut().expected;
        expected.add("frames_in", frames);
        expected.add("bytes_in", bytes);
        expected.add("publications", publications);
    }

    /// The next frame is the answer to the message of this id.
    pub(super) fn answer_to(&mut self, number: u64) -> Result<Value, String> {
        let mut answer = self.receive()?;
        if answer["message_type"] != "response" || answered(&answer) != Some(number) {
            return Err(format!("not an answer to message {number}: {}", excerpt(&answer)));
        }
        Ok(answer["payload"].take())
    }

    /// For what takes its time.
    pub(super) fn wait_up_to(&mut self, duration: Duration) -> Result<(), String> {
        let set = self.socket.set_read_timeout(Some(duration));
        set.map_err(|error| format!("a timeout: {error}"))
    }

    /// Asks the server itself. When it has answered, all before is done.
    pub(super) fn system(&mut self, question: &Value) -> Result<Value, String> {
        let number = self.ask(kind::SYSTEM, "request", "system", question)?;
        let answer = self.answer_to(number)?;
        self.confirm();
        Ok(answer)
    }

    pub(super) fn subscribe(&mut self, channel: &str, id: &str) -> Result<(), String> {
        self.subscription("subscribe", channel, id, "subscribed")
    }

    pub(super) fn unsubscribe(&mut self, channel: &str, id: &str) -> Result<(), String> {
        self.subscription("unsubscribe", channel, id, "unsubscribed")
    }

    fn subscription(
        &mut self,
        message_type: &str,
        channel: &str,
        id: &str,
        status: &str,
    ) -> Result<(), String> {
        let payload = json!({"connection_id": id, "ack": true});
        let number = self.ask(kind::SUBSCRIPTION, message_type, channel, &payload)?;
        let answer = self.answer_to(number)?;
        self.confirm();
        if answer["status"] == status { Ok(()) } else { Err(format!("{message_type}: {answer}")) }
    }

    pub(super) fn serve(&mut self, channel: &str) -> Result<(), String> {
        self.is_worker = true;
        let answer = self.system(&json!({"action": "serve", "channel": channel}))?;
        if answer["status"] == "serving" { Ok(()) } else { Err(format!("serve: {answer}")) }
    }

    /// The server knows that so many subscribe to the channel and no more.
    pub(super) fn until_subscribers(&mut self, channel: &str, count: u64) -> Result<(), String> {
        self.until(&json!({"action": "list_channels"}), |listed| {
            listed[channel]["subscribers"].as_u64().unwrap_or(0) == count
        })
    }

    /// The server knows that so many connections of this application are left.
    pub(super) fn until_connections(&mut self, count: u64) -> Result<(), String> {
        let application = self.application.clone();
        self.until(&json!({"action": "list_applications"}), |listed| {
            listed[&application]["connections"] == count
        })
    }

    /// Asks again and again until the answer is as it has to become.
    pub(super) fn until(
        &mut self,
        question: &Value,
        mut is_so: impl FnMut(&Value) -> bool,
    ) -> Result<(), String> {
        let begin = Instant::now();
        loop {
            let answer = self.system(question)?;
            if is_so(&answer) {
                return Ok(());
            }
            if begin.elapsed() > ANSWER_MAX {
                return Err(format!("this stays the answer to {question}: {}", excerpt(&answer)));
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }

    /// All before has been done, and nothing is under way that is not due: the next frame is
    /// the answer.
    pub(super) fn expect_nothing_else(&mut self) -> Result<(), String> {
        let answer = self.system(&json!({"action": "ping"}))?;
        if answer["status"] == "pong" { Ok(()) } else { Err(format!("ping: {answer}")) }
    }

    /// What was sent last is refused.
    pub(super) fn expect_error(&mut self, code: &str) -> Result<(), String> {
        let answer = self.receive()?;
        if answer["payload"]["code"] != code {
            return Err(format!("{code} was due, and this came: {}", excerpt(&answer)));
        }
        self.confirm();
        Ok(())
    }

    pub(super) fn expect_end(&mut self) -> Result<(), String> {
        match self.socket.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err("the server says more where it has to close".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err("the server does not close".to_owned())
            }
            Err(error) => Err(format!("the server should close: {error}")),
        }
    }

    /// An answer is there, and stays where it is. What asked for it was read.
    pub(super) fn leave_answer_unread(&mut self) -> Result<(), String> {
        let seen = self.socket.peek(&mut [MaybeUninit::uninit()]);
        self.confirm();
        match seen {
            Ok(1..) => Ok(()),
            Ok(_) => Err("an answer was due, and the server closed".to_owned()),
            Err(error) => Err(format!("an answer was due: {error}")),
        }
    }

    /// Leaves with questions open, on purpose; `by_reset`: without a goodbye on TCP.
    pub(super) fn hang_up(mut self, by_reset: bool) -> Result<(), String> {
        for kind in std::mem::take(&mut self.outstanding).into_values() {
            self.account.borrow_mut().lost(kind, "the requester hung up", 1);
        }
        if by_reset {
            let set = self.socket.set_linger(Some(Duration::ZERO));
            set.map_err(|error| format!("SO_LINGER: {error}"))?;
        }
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let Unread { frames, bytes, publications } = self.unread;
        let expected = &mut self.account.borrow_mut().expected;
        expected.perhaps("frames_in", frames);
        expected.perhaps("bytes_in", bytes);
        expected.perhaps("publications", publications);
    }
}

/// Which message this answers, by its id.
pub(super) fn answered(message: &Value) -> Option<u64> {
    message["reply_to"].as_str()?.parse().ok()
}

pub(super) fn excerpt(value: &Value) -> String {
    value.to_string().chars().take(300).collect()
}
