//! A client of a few lines, so that nothing of the project's own clients hides a fault.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

/// Nobody waits longer than this for anything: an answer that takes so long is lost.
const ANSWER_MAX: Duration = Duration::from_secs(30);
const FRAME_BYTES_MAX: usize = 16 << 20;

#[derive(Clone, Debug)]
pub(super) enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

pub(super) struct Peer {
    stream: Box<dyn Stream>,
    application: &'static str,
    sent: u64,
}

impl Peer {
    /// A connection that has said nothing yet.
    pub(super) fn raw(target: &Target, application: &'static str) -> Result<Self, String> {
        let stream: Box<dyn Stream> = match target {
            Target::Tcp(address) => {
                let stream = TcpStream::connect(address).map_err(|e| format!("connect: {e}"))?;
                let set = stream.set_nodelay(true).and(stream.set_read_timeout(Some(ANSWER_MAX)));
                set.and(stream.set_write_timeout(Some(ANSWER_MAX))).map_err(|e| e.to_string())?;
                Box::new(stream)
            }
            Target::Unix(path) => {
                let stream = UnixStream::connect(path).map_err(|e| format!("connect: {e}"))?;
                let set = stream.set_read_timeout(Some(ANSWER_MAX));
                set.and(stream.set_write_timeout(Some(ANSWER_MAX))).map_err(|e| e.to_string())?;
                Box::new(stream)
            }
        };
        Ok(Self { stream, application, sent: 0 })
    }

    pub(super) fn connect(
        target: &Target,
        application: &'static str,
        id: &str,
    ) -> Result<Self, String> {
        let mut peer = Self::raw(target, application)?;
        peer.send("request", "system", &json!({"action": "connect", "connection_id": id}))?;
        let answer = peer.receive()?;
        let payload = &answer["payload"];
        let is_connected = payload["status"] == "connected" && payload["connection_id"] == id;
        if !is_connected || !answer["reply_to"].is_null() {
            return Err(format!("connect of {id} was answered {answer}"));
        }
        Ok(peer)
    }

    /// Sends a message; its id is the number of messages that this peer has sent.
    pub(super) fn send(
        &mut self,
        kind: &str,
        channel: &str,
        payload: &Value,
    ) -> Result<String, String> {
        self.sent += 1;
        let id = self.sent.to_string();
        self.send_as(kind, channel, payload, &id, &Value::Null)?;
        Ok(id)
    }

    pub(super) fn respond(&mut self, request: &Value, payload: &Value) -> Result<(), String> {
        let channel = request["channel_id"].as_str().ok_or("a request without a channel")?;
        self.sent += 1;
        let id = self.sent.to_string();
        self.send_as("response", channel, payload, &id, &request["message_id"])
    }

    fn send_as(
        &mut self,
        kind: &str,
        channel: &str,
        payload: &Value,
        id: &str,
        reply_to: &Value,
    ) -> Result<(), String> {
        let message = json!({"message_id": id, "app_id": self.application, "channel_id": channel,
            "message_type": kind, "payload": payload, "timestamp": 1.5, "reply_to": reply_to});
        self.send_frame(message.to_string().as_bytes())
    }

    pub(super) fn send_frame(&mut self, body: &[u8]) -> Result<(), String> {
        let length = u32::try_from(body.len()).map_err(|_| "a frame is too long")?;
        self.send_bytes(&[&length.to_be_bytes()[..], body].concat())
    }

    pub(super) fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).map_err(|error| format!("send: {error}"))
    }

    pub(super) fn receive(&mut self) -> Result<Value, String> {
        let mut header = [0; 4];
        self.stream.read_exact(&mut header).map_err(|error| format!("receive: {error}"))?;
        let length = u32::from_be_bytes(header) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(format!("a frame of {length} B came"));
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).map_err(|error| format!("receive: {error}"))?;
        serde_json::from_slice(&body).map_err(|error| format!("no JSON came: {error}"))
    }

    /// The next frame is the answer to the message of this id.
    pub(super) fn answer_to(&mut self, id: &str) -> Result<Value, String> {
        let mut answer = self.receive()?;
        if answer["message_type"] != "response" || answer["reply_to"] != id {
            return Err(format!("not an answer to message {id}: {}", excerpt(&answer)));
        }
        Ok(answer["payload"].take())
    }

    pub(super) fn request(&mut self, channel: &str, payload: &Value) -> Result<Value, String> {
        let id = self.send("request", channel, payload)?;
        self.answer_to(&id)
    }

    /// All before has been done, and nothing is under way that is not due: the next frame is
    /// the answer.
    pub(super) fn expect_nothing_else(&mut self) -> Result<(), String> {
        let answer = self.request("system", &json!({"action": "ping"}))?;
        if answer["status"] == "pong" { Ok(()) } else { Err(format!("ping: {answer}")) }
    }

    pub(super) fn expect_error(&mut self, code: &str) -> Result<(), String> {
        let answer = self.receive()?;
        if answer["payload"]["code"] == code {
            return Ok(());
        }
        Err(format!("{code} was due, and this came: {}", excerpt(&answer)))
    }

    pub(super) fn expect_end(&mut self) -> Result<(), String> {
        match self.stream.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err("the server says more where it has to close".to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
            Err(error) => Err(format!("the server does not close: {error}")),
        }
    }
}

pub(super) fn excerpt(value: &Value) -> String {
    value.to_string().chars().take(300).collect()
}
