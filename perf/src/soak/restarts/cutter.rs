//! A line between clients and the server that is cut now and then.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::super::lock;

/// Passes on what clients and the server write, and cuts all connections when it is told to.
#[derive(Debug)]
pub(super) struct Cutter {
    pub(super) address: SocketAddr,
    /// Both ends of each connection.
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Cutter {
    pub(super) fn start(server: SocketAddr) -> Result<Self, String> {
        let fail = |error: io::Error| format!("the line to the server: {error}");
        let listener = TcpListener::bind("127.0.0.1:0").map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        let open = Arc::<Mutex<Vec<TcpStream>>>::default();
        let cutter = Self { address, open: Arc::clone(&open) };
        // It ends with the process.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // While the server is away, its clients find nobody here either.
                if let Ok(server) = TcpStream::connect(server) {
                    let _ = join(&client, &server, &open);
                }
            }
        });
        Ok(cutter)
    }

    /// Cuts all connections. Returns how many there were.
    pub(super) fn cut(&self) -> usize {
        let open = std::mem::take(&mut *lock(&self.open));
        for end in &open {
            // It may have ended meanwhile.
            let _ = end.shutdown(Shutdown::Both);
        }
        open.len() / 2
    }
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
