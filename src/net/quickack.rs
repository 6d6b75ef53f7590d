//! Immediate acknowledgements on TCP, for peers that write header and body apart.

use socket2::SockRef;

/// Says whether the kernel acknowledges at once, or waits for an answer to send along.
///
/// A connection starts without: a peer that writes header and body apart then waits with the body
/// of its very first message, which gives its habit away. Other peers do not wait and see no
/// difference. It is only a hint: without it a peer is slow, not wrong. Linux alone has it.
pub(super) fn set_quickack(socket: &SockRef<'_>, enabled: bool) {
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_quickack(enabled);
    #[cfg(not(target_os = "linux"))]
    let _ = (socket, enabled);
}
