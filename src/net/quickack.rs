//! Immediate acknowledgements on TCP, for peers that write header and body separately.

use socket2::SockRef;

/// Sets whether the kernel acknowledges received bytes at once, or delays that to send it along
/// with an answer.
///
/// A connection begins with delayed acknowledgements. A peer that writes header and body separately
/// then holds back the body of its very first message, which is how the server recognises it. Other
/// peers do not wait, and see no difference. An error is ignored, because the option only affects
/// speed. Linux alone has it.
pub(super) fn set_quickack(socket: &SockRef<'_>, enabled: bool) {
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_quickack(enabled);
    #[cfg(not(target_os = "linux"))]
    let _ = (socket, enabled);
}
