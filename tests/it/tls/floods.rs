//! Many connections to a TLS port.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipc_framework::Limits;
use socket2::SockRef;

use super::certificates::Certificates;
use super::peer::TlsPeer;
use super::serve_tls;

/// A connection that is reset before the server reads it costs no step of a handshake and keeps no
/// place. If the server handled one such connection a turn, they would fill the table and newcomers
/// would find the server full.
#[test]
fn connections_that_are_reset_at_once_do_not_fill_the_table() {
    const NEWCOMERS: usize = 5;
    const DEAD_MAX: usize = 500;
    /// The least that the server counts for a connection.
    const CONNECTION_BYTES: usize = 24 << 10;
    let certificates = Certificates::new("dead");
    let server = serve_tls(&certificates.tls(), Limits::default());
    let address = server.address;
    let empty_bytes = server.stats().memory_bytes;
    let is_over = Arc::new(AtomicBool::new(false));
    let flood = {
        let is_over = is_over.clone();
        std::thread::spawn(move || {
            let mut count = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                let together: Vec<TcpStream> =
                    (0..200).filter_map(|_| TcpStream::connect(address).ok()).collect();
                for socket in &together {
                    SockRef::from(socket).set_linger(Some(Duration::ZERO)).unwrap();
                }
                count += together.len() as u64;
            }
            count
        })
    };
    let watch = {
        let (is_over, handle) = (is_over.clone(), server.handle.clone());
        std::thread::spawn(move || {
            let mut most_bytes = 0;
            while !is_over.load(Ordering::Relaxed) {
                most_bytes = most_bytes.max(handle.stats().unwrap().memory_bytes);
            }
            most_bytes
        })
    };
    server.wait_until("some of the flood", |stats| stats.counters.accepted > 5_000);
    for at in 0..NEWCOMERS {
        TlsPeer::connected(address, &certificates.client(), &format!("newcomer-{at}")).fence();
    }
    is_over.store(true, Ordering::Relaxed);
    let (count, most_bytes) = (flood.join().unwrap(), watch.join().unwrap());
    let most = most_bytes.saturating_sub(empty_bytes) / CONNECTION_BYTES;
    println!("{count} came and were gone, at most {most} were there at once");
    assert!(most < DEAD_MAX, "{most} of {count} were there at once");
    // The application still exists.
    let left_bytes = empty_bytes + CONNECTION_BYTES;
    let stats = server.wait_until("their ends", |stats| stats.memory_bytes < left_bytes);
    assert_eq!(stats.counters.errors.get("server_full"), None);
}
