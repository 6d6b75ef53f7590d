//! A line between clients and the server that is cut now and then, or stays so for a while.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use super::super::lock;

/// Passes on what clients and the server write, and cuts all connections when it is told to.
#[derive(Debug)]
pub(super) struct Cutter {
    pub(super) address: SocketAddr,
    /// Both ends of each connection.
    open: Arc<Mutex<Vec<TcpStream>>>,
    /// Nobody gets through.
    is_held: Arc<AtomicBool>,
}

impl Cutter {
    pub(super) fn start(server: SocketAddr) -> Result<Self, String> {
        let fail = |error: io::Error| format!("the line to the server: {error}");
        let listener = TcpListener::bind("127.0.0.1:0").map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        let open = Arc::<Mutex<Vec<TcpStream>>>::default();
        let is_held = Arc::<AtomicBool>::default();
        let cutter = Self { address, open: Arc::clone(&open), is_held: Arc::clone(&is_held) };
        // It ends with the process.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // While the server is away, its clients find nobody here either.
                if let Ok(server) = TcpStream::connect(server) {
                    let _ = join(&client, &server, &open);
                }
                if is_held.load(Ordering::SeqCst) {
                    cut(&open);
                }
            }
        });
        Ok(cutter)
    }

    /// Cuts all connections. Returns how many there were.
    pub(super) fn cut(&self) -> usize {
        cut(&self.open)
    }

    /// Cuts all connections, and those that are made before [`release`](Self::release).
    pub(super) fn hold(&self) {
        self.is_held.store(true, Ordering::SeqCst);
        self.cut();
    }

    pub(super) fn release(&self) {
        self.is_held.store(false, Ordering::SeqCst);
    }
}

fn cut(open: &Mutex<Vec<TcpStream>>) -> usize {
    let open = std::mem::take(&mut *lock(open));
    for end in &open {
        // It may have ended meanwhile.
        let _ = end.shutdown(Shutdown::Both);
    }
    open.len() / 2
}

fn join(client: &TcpStream, server: &TcpStream, open: &Mutex<Vec<TcpStream>>) -> io::Result<()> {
    for (from, to) in [(client, server), (server, client)] {
        from.set_nodelay(true)?;
        let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            // The end of one direction is the end of both, as it is when a line is cut.
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        });
    }
    lock(open).extend([client.try_clone()?, server.try_clone()?]);
    Ok(())
}
