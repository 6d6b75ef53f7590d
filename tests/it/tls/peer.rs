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
        let name = "localhost".try_into().unwrap();
        let session = ClientConnection::new(config.clone(), name).unwrap();
        Self::speaking(StreamOwned::new(session, socket))
    }

    pub(super) fn connected(address: SocketAddr, config: &Arc<ClientConfig>, id: &str) -> Self {
        let mut peer = Self::over_tls(address, config);
        peer.connect("app", id);
        peer
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

    /// The server says no more, with or without the word that TLS has for it.
    pub(super) fn expect_any_end(&mut self) {
        self.try_receive().expect_err("the stream ends");
    }

    /// The server says that it says no more: nobody has cut the connection.
    pub(super) fn expect_clean_end(&mut self) {
        assert_eq!(self.stream.read(&mut [0]).expect("the end, not an error"), 0);
    }

    /// One of both does not like the other's certificate.
    pub(super) fn expect_failure(mut self) {
        // The handshake is made by the first write; what is refused afterwards shows in a read.
        let text = self.introduce(None).expect_err("no answer").to_string();
        assert!(text.contains("ertificate") || text.contains("UnknownCA"), "{text}");
    }
}
