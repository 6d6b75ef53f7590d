//! A TCP connection with TLS.
//!
//! Its buffers are bounded: a handshake takes at most [`HANDSHAKE_BYTES_MAX`]; after it, the stream
//! holds one incoming record at a time, and at most [`UNSENT_BYTES_MAX`] encrypted bytes that the
//! kernel has no room for.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::{ServerConfig, ServerConnection};
use socket2::SockRef;

use super::quickack::set_quickack;
use super::system::Stream;
use super::tls_records::{Counted, Records};
use crate::Tls;

/// The most encrypted bytes that wait for room in the kernel.
const UNSENT_BYTES_MAX: usize = 64 << 10;
/// The fixed cost of a record, as the number of bytes that are decrypted in the same time. A peer
/// may send records of a single byte, or of none.
const RECORD_COST_BYTES: usize = 512;
/// The most bytes that a peer may send before its handshake is complete, which include a chain of
/// certificates. rustls would hold four times as many.
const HANDSHAKE_BYTES_MAX: usize = 16 << 10;
/// The memory that a connection is charged for. Measured were 8 KB while it is idle, and 27 KB with
/// an incomplete record or handshake.
const HELD_BYTES: usize = 32 << 10;

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, one bit each")]
pub(crate) struct TlsStream {
    pub(super) socket: TcpStream,
    session: ServerConnection,
    records: Records,
    read_cost_bytes: usize,
    handshake_bytes: usize,
    handshake_steps: usize,
    /// The next read returns bytes or the end, even if the socket is empty.
    holds_more: bool,
    /// The handshake is complete, and nothing has been flushed since.
    opened: bool,
    /// The kernel had no room, and nothing has been flushed since. A read may send what was held back,
    /// and use up the room of which an event would have told.
    blocked: bool,
    /// The write side is shut as soon as everything is sent.
    finishing: bool,
}

impl TlsStream {
    pub(super) fn accept(socket: TcpStream, tls: &Tls) -> io::Result<Self> {
        Self::on(socket, tls.current())
    }

    fn on(socket: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let mut session = ServerConnection::new(config).map_err(io::Error::other)?;
        session.set_buffer_limit(Some(UNSENT_BYTES_MAX));
        Ok(Self {
            socket,
            session,
            records: Records::default(),
            read_cost_bytes: 0,
            handshake_bytes: 0,
            handshake_steps: 0,
            holds_more: false,
            opened: false,
            blocked: false,
            finishing: false,
        })
    }

    /// Reads the socket once and processes the records that this completes.
    fn take(&mut self) -> io::Result<()> {
        let mut counted = Counted { stream: &mut self.socket, records: &mut self.records };
        let taken = self.session.read_tls(&mut counted)?;
        self.read_cost_bytes += taken + self.records.take_begun() * RECORD_COST_BYTES;
        let was_handshaking = self.session.is_handshaking();
        let processed = self.session.process_new_packets();
        if was_handshaking {
            self.count_handshake(taken);
        }
        // Pending bytes are an answer of the handshake, or the alert that names the peer's fault.
        let sent = self.send_pending();
        processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        sent?;
        if self.session.is_handshaking() && self.handshake_bytes > HANDSHAKE_BYTES_MAX {
            let text = "its TLS handshake is longer than 16 KiB";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(())
    }

    /// Counts the bytes of the handshake and its complete steps.
    fn count_handshake(&mut self, taken: usize) {
        self.handshake_bytes += taken;
        self.opened |= !self.session.is_handshaking();
        // An incomplete step is only buffered, which is cheap.
        self.handshake_steps += usize::from(self.opened || self.session.wants_write());
    }

    /// Sends all encrypted bytes. Returns whether the kernel took all of them.
    fn send_pending(&mut self) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        if std::mem::take(&mut self.finishing) {
            // If the socket is shut already, the next read reports that.
            let _ = self.socket.shutdown(Shutdown::Write);
        }
        Ok(true)
    }
}

impl Drop for TlsStream {
    /// Sends `close_notify`, which tells the peer that the stream ends here and was not truncated
    /// by an attacker.
    fn drop(&mut self) {
        self.session.send_close_notify();
        // Bytes that the kernel has no room for now are lost with the connection.
        let _ = self.send_pending();
    }
}

impl Stream for TlsStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.holds_more = false;
        self.read_cost_bytes = 0;
        let mut filled = 0;
        while filled < buffer.len() {
            match self.session.reader().read(&mut buffer[filled..]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Many peers close without `close_notify`. That is accepted, because the length of
                // a frame shows whether it is complete.
                Ok(0) | Err(_) => {
                    self.holds_more = filled > 0;
                    return Ok(filled);
                }
                Ok(bytes) => {
                    filled += bytes;
                    continue;
                }
            }
            if self.read_cost_bytes >= buffer.len() {
                self.holds_more = filled > 0;
                return if filled > 0 {
                    Ok(filled)
                } else {
                    Err(io::ErrorKind::Interrupted.into())
                };
            }
            match self.take() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && filled > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // Nothing is sent before the handshake is complete. `wants_flush` asks for another write
        // then.
        if self.session.is_handshaking() || !self.send_pending()? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut written = 0;
        for slice in slices {
            let mut rest = &slice[..];
            while !rest.is_empty() {
                let bytes = self.session.writer().write(rest)?;
                written += bytes;
                rest = &rest[bytes..];
                // The session takes only a part when its buffer is full.
                if !rest.is_empty() && !self.send_pending()? {
                    return Ok(written);
                }
            }
        }
        self.send_pending()?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<bool> {
        (self.opened, self.blocked) = (false, false);
        self.send_pending()
    }

    fn shutdown_write(&mut self) {
        self.session.send_close_notify();
        self.finishing = true;
        // If the connection is broken, the next read reports that.
        let _ = self.send_pending();
    }

    fn acknowledge_at_once(&mut self) {
        set_quickack(&SockRef::from(&self.socket), true);
    }

    fn holds_more(&self) -> bool {
        self.holds_more
    }

    fn read_cost_bytes(&self, brought_bytes: usize) -> usize {
        // Bytes that an earlier read decrypted were charged to that one.
        self.read_cost_bytes.max(brought_bytes)
    }

    fn wants_flush(&self) -> bool {
        self.opened || self.blocked || self.session.wants_write()
    }

    fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    fn take_handshake_steps(&mut self) -> usize {
        std::mem::take(&mut self.handshake_steps)
    }

    fn held_bytes(&self) -> usize {
        HELD_BYTES
    }
}

#[cfg(test)]
mod tests {
    use std::net;

    use rcgen::{CertificateParams, KeyPair};
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::super::stream::SocketStream;
    use super::*;

    const BUFFER_BYTES: usize = 64 << 10;

    fn configs() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        server.send_tls13_tickets = 0;
        (Arc::new(server), Arc::new(client))
    }

    /// Returns a stream whose client runs on a thread of its own.
    fn stream_with(
        client: impl FnOnce(ClientConnection, net::TcpStream) + Send + 'static,
    ) -> TlsStream {
        let (server_config, client_config) = configs();
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            let name = "localhost".try_into().unwrap();
            client(ClientConnection::new(client_config, name).unwrap(), socket);
        });
        TlsStream::on(TcpStream::from_std(accepted), server_config).unwrap()
    }

    /// Repeats the read until it returns anything but `WouldBlock`.
    fn next_read(stream: &mut TlsStream) -> io::Result<usize> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match stream.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                read => return read,
            }
        }
    }

    #[test]
    fn its_socket_is_prepared_as_that_of_any_tcp_connection() {
        let stream = stream_with(|_, socket| drop(socket));
        let socket = SockRef::from(&stream.socket).try_clone().unwrap();
        assert!(!socket.tcp_nodelay().unwrap());
        let sent_bytes = socket.send_buffer_size().unwrap();
        SocketStream::tls(stream).prepare().unwrap();
        assert!(socket.tcp_nodelay().unwrap(), "small messages wait for acknowledgements");
        assert_ne!(socket.send_buffer_size().unwrap(), sent_bytes, "the kernel would grow it");
    }

    #[test]
    fn a_record_is_charged_however_little_it_holds() {
        const RECORDS: usize = 3_000;
        /// The most bytes that rustls reads at once.
        const TAKEN_BYTES_MAX: usize = 4 << 10;
        let mut stream = stream_with(|mut session, mut socket| {
            session.complete_io(&mut socket).unwrap();
            let mut bytes = Vec::new();
            for _ in 0..RECORDS {
                session.writer().write_all(b" ").unwrap();
                session.write_tls(&mut bytes).unwrap();
            }
            socket.write_all(&bytes).unwrap();
        });
        let (mut brought, mut cost, mut dearest) = (0, 0, 0);
        while brought < RECORDS {
            let bytes = next_read(&mut stream).expect("the end comes later");
            brought += bytes;
            cost += stream.read_cost_bytes(bytes);
            dearest = dearest.max(stream.read_cost_bytes(bytes));
        }
        assert!(cost >= RECORDS * RECORD_COST_BYTES, "{cost} bytes for all");
        let record_bytes = 23;
        let over = TAKEN_BYTES_MAX + TAKEN_BYTES_MAX / record_bytes * RECORD_COST_BYTES;
        assert!(dearest < BUFFER_BYTES + over + RECORD_COST_BYTES, "{dearest} bytes for one read");
        assert!(next_read(&mut stream).is_ok_and(|bytes| bytes == 0));
    }

    #[test]
    fn a_step_of_the_handshake_is_counted_when_it_is_whole() {
        let (proceed, may_proceed) = std::sync::mpsc::channel();
        let mut stream = stream_with(move |mut session, mut socket| {
            let mut hello = Vec::new();
            session.write_tls(&mut hello).unwrap();
            let (begin, end) = hello.split_at(hello.len() - 1);
            for byte in begin {
                socket.write_all(&[*byte]).unwrap();
            }
            may_proceed.recv().unwrap();
            socket.write_all(end).unwrap();
            session.complete_io(&mut socket).unwrap();
            session.writer().write_all(b"words").unwrap();
            session.complete_io(&mut socket).unwrap();
            may_proceed.recv().unwrap();
        });
        let mut buffer = vec![0; BUFFER_BYTES];
        while stream.handshake_bytes < 100 {
            assert_eq!(stream.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
        assert_eq!((stream.take_handshake_steps(), stream.is_handshaking()), (0, true));
        proceed.send(()).unwrap();
        assert_eq!(next_read(&mut stream).unwrap(), 5);
        assert!(stream.wants_flush(), "it may be written to now");
        assert_eq!((stream.take_handshake_steps(), stream.is_handshaking()), (2, false));
        assert_eq!((stream.take_handshake_steps(), stream.flush().unwrap()), (0, true));
        assert!(!stream.wants_flush());
        proceed.send(()).unwrap();
    }

    /// Returns all that is read before the loop would wait for an event, and whether the end came.
    fn read_all(stream: &mut TlsStream, buffer_bytes: usize) -> (Vec<u8>, bool) {
        let mut all = Vec::new();
        loop {
            let mut buffer = vec![0; buffer_bytes];
            let bytes = match stream.read(&mut buffer) {
                Ok(0) => return (all, true),
                Ok(bytes) => bytes,
                // The loop asks again at once.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    return (all, false);
                }
            };
            all.extend_from_slice(&buffer[..bytes]);
            // The loop reads no more after a short read, unless it is told to.
            if bytes < buffer_bytes && !stream.holds_more() {
                return (all, false);
            }
        }
    }

    /// Returns a stream whose client has said all that it will, and what keeps the client's side open.
    fn said(
        say: impl FnOnce(&mut ClientConnection) -> Vec<u8> + Send + 'static,
        finishes: bool,
    ) -> (TlsStream, std::sync::mpsc::Sender<()>) {
        let (is_said, awaited) = std::sync::mpsc::channel();
        let (proceed, may_proceed) = std::sync::mpsc::channel();
        let mut stream = stream_with(move |mut session, mut socket| {
            session.complete_io(&mut socket).unwrap();
            may_proceed.recv().unwrap();
            let bytes = say(&mut session);
            socket.write_all(&bytes).unwrap();
            if finishes {
                socket.shutdown(Shutdown::Write).unwrap();
            }
            is_said.send(bytes.len()).unwrap();
            // The socket stays open until the test is over.
            let _ = may_proceed.recv();
        });
        while stream.is_handshaking() {
            let read = stream.read(&mut vec![0; BUFFER_BYTES]);
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::WouldBlock);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        proceed.send(()).unwrap();
        let said_bytes = awaited.recv().unwrap();
        // A busy machine delivers it later.
        let mut seen = vec![0; said_bytes];
        while stream.socket.peek(&mut seen).unwrap_or(0) < said_bytes {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        (stream, proceed)
    }

    /// Returns everything that a session has to send.
    fn take_tls(session: &mut ClientConnection) -> Vec<u8> {
        let mut bytes = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    #[test]
    fn the_end_that_comes_with_the_last_bytes_is_found_behind_them() {
        for says_goodbye in [true, false] {
            let say = move |session: &mut ClientConnection| {
                session.writer().write_all(b"words").unwrap();
                if says_goodbye {
                    session.send_close_notify();
                }
                take_tls(session)
            };
            let (mut stream, _open) = said(say, !says_goodbye);
            assert_eq!(stream.read(&mut [0; 64]).unwrap(), 5);
            // An end without a word is an event of its own, if it comes later than the bytes.
            assert!(stream.holds_more() || !says_goodbye, "no event reports the end");
            assert_eq!(next_read(&mut stream).unwrap(), 0);
        }
    }

    /// The socket is empty, and no event reports what only the session has.
    #[test]
    fn what_is_decrypted_and_was_not_read_yet_is_read_without_an_event() {
        const BYTES: usize = 10_000;
        let words: Vec<u8> = (0..BYTES).map(|at| at as u8).collect();
        for buffer_bytes in [64, 999, 4_096, 20_000] {
            let said_words = words.clone();
            let say = move |session: &mut ClientConnection| {
                session.writer().write_all(&said_words).unwrap();
                take_tls(session)
            };
            let (mut stream, _open) = said(say, false);
            let (all, has_ended) = read_all(&mut stream, buffer_bytes);
            assert!(all == words && !has_ended, "{} by {buffer_bytes}", all.len());
        }
    }

    /// A read ends early when it has cost as much as a whole one, and says that there is more.
    #[test]
    fn what_a_dear_read_leaves_is_read_without_an_event() {
        const RECORDS: usize = 300;
        let say = |session: &mut ClientConnection| {
            let mut bytes = Vec::new();
            for _ in 0..RECORDS {
                session.writer().write_all(b" ").unwrap();
                bytes.append(&mut take_tls(session));
            }
            bytes
        };
        let (mut stream, _open) = said(say, false);
        let (all, has_ended) = read_all(&mut stream, 4_096);
        assert_eq!((all.len(), has_ended), (RECORDS, false));
    }

    /// A read that sends what was held back uses up the room of which an event would have told.
    #[test]
    fn a_read_that_sends_what_was_held_back_asks_for_a_flush_of_the_rest() {
        let (proceed, may_proceed) = std::sync::mpsc::channel();
        let mut stream = stream_with(move |mut session, mut socket| {
            session.complete_io(&mut socket).unwrap();
            may_proceed.recv().unwrap();
            let quiet = std::time::Duration::from_millis(200);
            socket.set_read_timeout(Some(quiet)).unwrap();
            while socket.read(&mut vec![0; BUFFER_BYTES]).is_ok_and(|bytes| bytes > 0) {}
            session.writer().write_all(b"words").unwrap();
            socket.write_all(&take_tls(&mut session)).unwrap();
            // The socket stays open until the test is over.
            let _ = may_proceed.recv();
        });
        while stream.is_handshaking() {
            let read = stream.read(&mut vec![0; BUFFER_BYTES]);
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::WouldBlock);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        while stream.flush().unwrap() {
            stream.write(&[IoSlice::new(&vec![0; BUFFER_BYTES])]).unwrap();
        }
        proceed.send(()).unwrap();
        assert_eq!(next_read(&mut stream).unwrap(), 5);
        assert!(!stream.session.wants_write(), "the read sent it");
        assert!(stream.wants_flush(), "the queue may have more");
        assert!(stream.flush().unwrap() && !stream.wants_flush());
    }
}
