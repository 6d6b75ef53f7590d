//! A client made of rustls and a socket.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::support::{HANG, frame};

pub(super) struct TlsPeer {
    stream: StreamOwned<ClientConnection, TcpStream>,
    connection_id: String,
    next_id: u64,
}

impl TlsPeer {
    pub(super) fn new(address: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        Self::on(TcpStream::connect(address).unwrap(), config)
    }

    /// One for which the kernel keeps little that it has not read.
    pub(super) fn narrow(address: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(32 << 10).unwrap();
        socket.connect(&address.into()).unwrap();
        Self::on(socket.into(), config)
    }

    fn on(socket: TcpStream, config: &Arc<ClientConfig>) -> Self {
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(HANG)).unwrap();
        socket.set_write_timeout(Some(HANG)).unwrap();
        let session =
            ClientConnection::new(config.clone(), "localhost".try_into().unwrap()).unwrap();
        let stream = StreamOwned::new(session, socket);
        Self { stream, connection_id: String::new(), next_id: 0 }
    }

    pub(super) fn connected(address: SocketAddr, config: &Arc<ClientConfig>, id: &str) -> Self {
        let mut peer = Self::new(address, config);
        peer.connect(id);
        peer
    }

    pub(super) fn connect(&mut self, id: &str) {
        id.clone_into(&mut self.connection_id);
        self.send("request", "system", json!({"action": "connect", "connection_id": id}));
        assert_eq!(self.receive()["payload"]["status"], "connected");
    }

    #[expect(clippy::needless_pass_by_value, reason = "calls read better with json!(…)")]
    pub(super) fn send(&mut self, message_type: &str, channel_id: &str, payload: Value) {
        self.next_id += 1;
        let message = json!({
            "message_id": format!("{}", self.next_id),
            "app_id": "app",
            "channel_id": channel_id,
            "message_type": message_type,
            "payload": payload,
            "timestamp": 1.25,
            "reply_to": null,
        });
        self.stream.write_all(&frame(message.to_string().as_bytes())).unwrap();
    }

    /// Sends so many bytes in one record, all of it but the last byte.
    #[cfg(feature = "cli")]
    pub(super) fn send_unfinished_record(&mut self, bytes: usize) {
        let mut record = Vec::new();
        self.stream.conn.writer().write_all(&vec![b' '; bytes]).unwrap();
        self.stream.conn.write_tls(&mut record).unwrap();
        assert!(!self.stream.conn.wants_write(), "it is one record");
        record.pop();
        self.stream.sock.write_all(&record).unwrap();
    }

    /// Says that it says no more, and goes on reading.
    pub(super) fn finish_write(&mut self) {
        self.stream.conn.send_close_notify();
        self.stream.flush().unwrap();
        self.stream.sock.shutdown(Shutdown::Write).unwrap();
    }

    fn try_receive(&mut self) -> io::Result<Value> {
        let mut header = [0; 4];
        self.stream.read_exact(&mut header)?;
        let mut body = vec![0; u32::from_be_bytes(header) as usize];
        self.stream.read_exact(&mut body)?;
        Ok(serde_json::from_slice(&body).unwrap())
    }

    pub(super) fn receive(&mut self) -> Value {
        self.try_receive().expect("a frame before the stream ends")
    }

    pub(super) fn request(&mut self, channel_id: &str, payload: Value) -> Value {
        self.send("request", channel_id, payload);
        let answer = self.receive();
        assert_eq!(answer["reply_to"], format!("{}", self.next_id), "{answer}");
        answer["payload"].clone()
    }

    pub(super) fn subscribe(&mut self, channel_id: &str) {
        let payload = json!({"connection_id": self.connection_id, "ack": true});
        self.send("subscribe", channel_id, payload);
        assert_eq!(self.receive()["payload"]["status"], "subscribed");
    }

    pub(super) fn fence(&mut self) {
        assert_eq!(self.request("system", json!({"action": "ping"}))["status"], "pong");
    }

    /// The server says no more.
    pub(super) fn expect_end(&mut self) {
        self.try_receive().expect_err("the stream ends");
    }

    /// The server says that it says no more: nobody has cut the connection.
    pub(super) fn expect_clean_end(&mut self) {
        assert_eq!(self.stream.read(&mut [0]).expect("the end, not an error"), 0);
    }

    /// One of both does not like the other's certificate.
    pub(super) fn expect_failure(mut self) {
        let message = json!({"action": "connect", "connection_id": "x"}).to_string();
        // The handshake is made by the first write; what is refused afterwards shows in a read.
        let written = self.stream.write_all(&frame(message.as_bytes()));
        let error = written.and_then(|()| self.try_receive().map(drop)).expect_err("no answer");
        let text = error.to_string();
        assert!(text.contains("ertificate") || text.contains("UnknownCA"), "{text}");
    }
}
