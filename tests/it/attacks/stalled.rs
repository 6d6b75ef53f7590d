//! Thousands of clients that stop in the middle of sending, or stop reading.

use std::io::Write;

use serde_json::json;

use super::{Held, connected, count, kernel_bytes, wait_for_descriptors, wait_until};
use crate::descriptors::ServerProcess;
use crate::support::Peer;

fn many(server: &ServerProcess, count: usize, what: &str) -> Vec<Peer> {
    (0..count).map(|at| connected(server, &format!("{what}-{at}"))).collect()
}

/// Ten thousand clients announce 16 MiB each and send only the beginning. The server does not
/// reserve the announced 160 GB: each costs a buffer of twice the bytes it has sent, rounded up.
#[test]
#[cfg_attr(debug_assertions, ignore = "a step of tests/run has it optimised")]
fn ten_thousand_unfinished_messages_cost_what_was_sent_of_them() {
    const CLIENTS: usize = 10_000;
    const SENT_BYTES: usize = 5_000;
    const BUFFER_BYTES: usize = 16 << 10;
    /// The written part of the buffer, in whole pages, and the cost of an idle connection.
    const RESIDENT_BYTES: usize = (8 << 10) + (2 << 10);
    crate::descriptors::raise_limit();
    let server = ServerProcess::limited(None, &format!("connections_max={}", CLIENTS + 10));
    let mut bystander = connected(&server, "bystander");
    bystander.fence();
    let before = Held::by(&server);
    let mut stalled = many(&server, CLIENTS, "stalled");
    for peer in &mut stalled {
        let mut bytes = (16_u32 << 20).to_be_bytes().to_vec();
        bytes.resize(SENT_BYTES, b' ');
        peer.stream.write_all(&bytes).unwrap();
    }
    let sent = CLIENTS * SENT_BYTES;
    wait_until(&mut bystander, "all that was sent", |stats| count(stats, "bytes_in") >= sent);
    let held = Held::by(&server);
    let buffered = count(&bystander.stats(), "buffered_bytes");
    let grown = held.resident_bytes - before.resident_bytes;
    let (_, unread) = kernel_bytes(server.address.port());
    println!("{CLIENTS} stalled: {buffered} B buffered, {grown} B resident, {unread} B unread");
    assert!(buffered >= sent, "{buffered} bytes: they are not stalled");
    assert!(buffered <= CLIENTS * BUFFER_BYTES, "{buffered} bytes");
    assert!(grown <= CLIENTS * RESIDENT_BYTES, "{grown} bytes");
    assert_eq!(unread, 0, "the kernel holds none of it for the server");
    assert_eq!(held.descriptors, before.descriptors + CLIENTS);
    assert_eq!(bystander.request("echo", json!("well")), "well");
    drop(stalled);
    wait_until(&mut bystander, "their end", |stats| count(stats, "total_connections") == 1);
    assert_eq!(count(&bystander.stats(), "buffered_bytes"), 0);
    wait_for_descriptors(&server, before.descriptors);
    server.stop();
}

/// Subscribers that do not read large messages. A message is held once, however many wait for it,
/// so in the server a thousand cost hardly more than one. In the kernel each has its send buffer,
/// 512 KiB with its book-keeping, and at most one segment over it. More subscribers are not
/// measured: together they may take what `net.ipv4.tcp_mem` allows on a machine, a tenth of its
/// memory, and ten thousand would take that away from everything else that runs there.
#[test]
#[cfg_attr(debug_assertions, ignore = "a step of tests/run has it optimised")]
fn a_thousand_subscribers_that_do_not_read_share_what_waits_for_them() {
    const CLIENTS: usize = 1_000;
    const HIGH_WATER_BYTES: usize = 1 << 20;
    const MESSAGE_BYTES: usize = 64 << 10;
    /// The kernel doubles the size, because it includes the book-keeping. It takes another segment
    /// as long as it has not reached that size, whatever the segment's own size is.
    const SEND_BUFFER_BYTES: usize = 2 * (256 << 10);
    const SEGMENT_BYTES: usize = 64 << 10;
    crate::descriptors::raise_limit();
    let server = ServerProcess::limited(None, "slow_consumer_grace_ms=6000");
    let mut bystander = connected(&server, "bystander");
    let mut stalled = Vec::new();
    for mut peer in many(&server, CLIENTS, "stalled") {
        peer.read_nothing_early(4 << 10);
        peer.subscribe("news");
        stalled.push(peer);
    }
    let before = Held::by(&server);
    let mut publisher = connected(&server, "publisher");
    let publishing = std::thread::spawn(move || {
        let text = json!("x".repeat(MESSAGE_BYTES));
        for _ in 0..100 {
            publisher.send("publish", "news", text.clone());
        }
        publisher.fence();
        publisher
    });
    let held =
        wait_until(&mut bystander, "a publisher held", |stats| count(stats, "publishers_held") > 0);
    let (queued, _) = kernel_bytes(server.address.port());
    let grown = Held::by(&server).resident_bytes - before.resident_bytes;
    let buffered = count(&held, "buffered_bytes");
    println!("{CLIENTS} deaf: {buffered} B buffered, {grown} B resident, {queued} B in the kernel");
    assert_eq!(count(&held, "slow_consumers"), 0, "the grace comes first");
    // Shared once: the mark, the message over it, what the kernel had taken meanwhile, and the
    // buffers' rounding up to powers of two.
    let shared_bytes = 2 * (HIGH_WATER_BYTES + 2 * MESSAGE_BYTES + SEND_BUFFER_BYTES);
    assert!(buffered <= shared_bytes, "{buffered} bytes");
    assert!(grown <= shared_bytes + CLIENTS * (4 << 10), "{grown} bytes");
    // These bytes may include the answer with the statistics.
    let kernel_bytes_max = CLIENTS * (SEND_BUFFER_BYTES + SEGMENT_BYTES) + (64 << 10);
    assert!(queued <= kernel_bytes_max, "{queued} bytes");
    assert!(queued >= CLIENTS * MESSAGE_BYTES, "{queued} bytes: they are not stalled");
    assert_eq!(bystander.request("echo", json!("well")), "well");

    let mut publisher = publishing.join().expect("held back, not failed");
    publisher.fence();
    let after = bystander.stats();
    assert_eq!(count(&after, "slow_consumers"), CLIENTS);
    assert_eq!((count(&after, "total_connections"), count(&after, "buffered_bytes")), (2, 0));
    assert!(kernel_bytes(server.address.port()).0 <= (64 << 10), "the kernel still holds theirs");
    drop(stalled);
    server.stop();
}
