//! A client made of rustls and a socket.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::{Domain, Socket, Type};

use crate::support::{HANG, Peer};

pub(super) type TlsPeer = Peer<StreamOwned<ClientConnection, TcpStream>>;

impl TlsPeer {
    pub(super) fn over_tls(address: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        Self::on(TcpStream::connect(address).unwrap(), config)
    }

    /// Connects with a small receive buffer, so that the kernel keeps few unread bytes.
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
        let name = "localhost".try_into().unwrap();
        let session = ClientConnection::new(config.clone(), name).unwrap();
        Self::speaking(StreamOwned::new(session, socket))
    }

    pub(super) fn connected(address: SocketAddr, config: &Arc<ClientConfig>, id: &str) -> Self {
        let mut peer = Self::over_tls(address, config);
        peer.connect("app", id);
        peer
    }

    /// Sends so many bytes in one record, without the last byte of the record.
    #[cfg(feature = "cli")]
    pub(super) fn send_unfinished_record(&mut self, bytes: usize) {
        let mut record = Vec::new();
        self.stream.conn.writer().write_all(&vec![b' '; bytes]).unwrap();
        self.stream.conn.write_tls(&mut record).unwrap();
        assert!(!self.stream.conn.wants_write(), "it is one record");
        record.pop();
        self.stream.sock.write_all(&record).unwrap();
    }

    /// Announces the end of its own side, and goes on reading.
    pub(super) fn finish_write(&mut self) {
        self.stream.conn.send_close_notify();
        self.stream.flush().unwrap();
        self.stream.sock.shutdown(Shutdown::Write).unwrap();
    }

    /// Expects that the server closes, with or without the notice of TLS.
    pub(super) fn expect_any_end(&mut self) {
        self.try_receive().expect_err("the stream ends");
    }

    /// Expects that the server announces the end, so that it was not cut.
    pub(super) fn expect_clean_end(&mut self) {
        assert_eq!(self.stream.read(&mut [0]).expect("the end, not an error"), 0);
    }

    /// Expects that one side rejects the other's certificate.
    pub(super) fn expect_failure(mut self) {
        // The first write makes the handshake. A later refusal shows in a read.
        let text = self.introduce(None).expect_err("no answer").to_string();
        assert!(text.contains("ertificate") || text.contains("UnknownCA"), "{text}");
    }
}
