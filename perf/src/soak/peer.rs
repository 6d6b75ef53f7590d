//! A minimal client, so that no code of the project's own clients can hide a fault. It keeps an
//! account of all messages that it sends and receives.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::Socket;

use super::account::{Account, kind};
use crate::endpoint::Endpoint;

/// The longest wait for anything. An answer that takes longer counts as lost.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(30);
/// The interval for polling a state that the server does not announce.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
const FRAME_BYTES_MAX: usize = 16 << 20;
/// The members of a message. There must be no others, because the published client fails at them.
const KEYS: [&str; 7] =
    ["app_id", "channel_id", "message_id", "message_type", "payload", "reply_to", "timestamp"];

/// The messages that the server may not have read yet, because no later one was answered.
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
    /// The number of messages sent. Each has its number as its id.
    sent: u64,
    unread: Unread,
    /// The kinds of messages that wait for an answer, by their ids.
    outstanding: HashMap<u64, &'static str>,
    pub(super) last_frame_bytes: u64,
    is_welcome: bool,
    is_worker: bool,
}

impl Peer {
    /// Connects without a handshake.
    pub(super) fn raw(
        target: &Endpoint,
        application: &str,
        account: &Rc<RefCell<Account>>,
    ) -> Result<Self, String> {
        let socket = target.connect(ANSWER_MAX).map_err(|error| format!("connect: {error}"))?;
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
        target: &Endpoint,
        application: &str,
        id: &str,
        account: &Rc<RefCell<Account>>,
    ) -> Result<Self, String> {
        let mut peer = Self::raw(target, application, account)?;
        peer.introduce(&json!({"action": "connect", "connection_id": id}))?;
        Ok(peer)
    }

    /// Completes the handshake.
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

    /// Records that the handshake was accepted. Its answer names no message.
    pub(super) fn is_let_in(&mut self) {
        self.outstanding.clear();
        self.account.borrow_mut().done(kind::SYSTEM, 1);
        self.is_welcome = true;
        self.confirm();
    }

    /// Sends a message that has an answer. Returns the message's id.
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

    /// Receives the next message of any type. Fails if it belongs to another peer.
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
            // A handler sends notifications to the subscribers of its channel.
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

    /// Records that the server has read all messages sent so far.
    pub(super) fn confirm(&mut self) {
        let Unread { frames, bytes, publications } = std::mem::take(&mut self.unread);
        let expected = &mut self.account.borrow_mut().expected;
        expected.add("frames_in", frames);
        expected.add("bytes_in", bytes);
        expected.add("publications", publications);
    }

    /// Receives the next message, which must be the answer to the message with this id.
    pub(super) fn answer_to(&mut self, number: u64) -> Result<Value, String> {
        let mut answer = self.receive()?;
        if answer["message_type"] != "response" || answered(&answer) != Some(number) {
            return Err(format!("not an answer to message {number}: {}", excerpt(&answer)));
        }
        Ok(answer["payload"].take())
    }

    /// Extends the longest wait for the next message.
    pub(super) fn wait_up_to(&mut self, duration: Duration) -> Result<(), String> {
        let set = self.socket.set_read_timeout(Some(duration));
        set.map_err(|error| format!("a timeout: {error}"))
    }

    /// Sends a request to the `system` channel. Its answer confirms all earlier messages.
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

    /// Waits until the server lists exactly so many subscribers of the channel.
    pub(super) fn until_subscribers(&mut self, channel: &str, count: u64) -> Result<(), String> {
        self.until(&json!({"action": "list_channels"}), |listed| {
            listed[channel]["subscribers"].as_u64().unwrap_or(0) == count
        })
    }

    /// Waits until the server lists exactly so many connections of this application.
    pub(super) fn until_connections(&mut self, count: u64) -> Result<(), String> {
        let application = self.application.clone();
        self.until(&json!({"action": "list_applications"}), |listed| {
            listed[&application]["connections"] == count
        })
    }

    /// Repeats a request until its answer meets the condition.
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

    /// Checks that the server sends nothing unexpected: the next message is the answer to a ping.
    pub(super) fn expect_nothing_else(&mut self) -> Result<(), String> {
        let answer = self.system(&json!({"action": "ping"}))?;
        if answer["status"] == "pong" { Ok(()) } else { Err(format!("ping: {answer}")) }
    }

    /// Receives the next message, which must be an error with this code.
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

    /// Waits for an answer and leaves it in the kernel. It confirms all earlier messages.
    pub(super) fn leave_answer_unread(&mut self) -> Result<(), String> {
        let seen = self.socket.peek(&mut [MaybeUninit::uninit()]);
        self.confirm();
        match seen {
            Ok(1..) => Ok(()),
            Ok(_) => Err("an answer was due, and the server closed".to_owned()),
            Err(error) => Err(format!("an answer was due: {error}")),
        }
    }

    /// Closes the connection while requests are in flight. With `by_reset`, TCP resets it.
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

/// Returns the id of the message that this one answers.
pub(super) fn answered(message: &Value) -> Option<u64> {
    message["reply_to"].as_str()?.parse().ok()
}

pub(super) fn excerpt(value: &Value) -> String {
    value.to_string().chars().take(300).collect()
}
