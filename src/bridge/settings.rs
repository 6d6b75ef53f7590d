//! What the machine is told once.

/// How a bridge behaves, and who it is.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The id of this server among all servers, chosen at random for each process.
    pub(crate) id: [u8; 16],
    /// Chosen at random for each process, too: tells this process from another one with the same id.
    pub(crate) incarnation: u64,
    /// What the operator calls this server: a host's name, for the log and `ipc top`.
    pub(crate) name: String,
    /// The first part of each subject: one token of letters, digits, `-` and `_`.
    pub(crate) prefix: String,
    /// The patterns of the channels that are shared. Each is a valid pattern of channels.
    pub(crate) channels: Vec<String>,
    /// The most bytes that wait for NATS.
    pub(crate) queue_bytes: usize,
    /// The largest body of a frame that the own server takes at first.
    pub(crate) max_frame_bytes: usize,
}

impl Settings {
    /// Returns whether a channel is shared with other servers.
    pub(crate) fn is_shared(&self, channel: &str) -> bool {
        channel != crate::proto::system::SYSTEM
            && self.channels.iter().any(|pattern| crate::proto::pattern::matches(pattern, channel))
    }
}
