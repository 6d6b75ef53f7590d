//! The driver's door for connections that go over to shared memory.

use super::broker::Broker;
use super::peer::sharing;
use super::state::events::Turnover;
use super::state::keys::ConnectionKey;

impl Broker {
    /// Calls `make` with the size of each ring, to make those of a connection whose
    /// [`Action::Share`](super::Action::Share) has come, and answers its request. `make` returns the
    /// bytes of memory that they take together, which count towards
    /// [`Limits::memory_bytes_max`](super::Limits::memory_bytes_max) until the connection is closed. Its
    /// error goes to the peer, and the socket goes on.
    ///
    /// Returns where in its queue the connection goes over to the rings. From then on the driver reads
    /// and writes them, and keeps the socket only to learn of the peer's end. Returns `None` if it stays
    /// on the socket.
    ///
    /// ```
    /// # use ipc_framework::{Access, Limits};
    /// # use ipc_framework::broker::{Action, Broker, Now};
    /// # let mut broker = Broker::new(Limits::default(), Access::default(), [7; 32], Now::default());
    /// while let Some(action) = broker.next_action() {
    ///     let Action::Share(key) = action else { continue };
    ///     let made = broker.share(key, |_| Err("this driver has no shared memory".to_owned()));
    ///     assert_eq!(made, None);
    /// }
    /// ```
    pub fn share(
        &mut self,
        key: ConnectionKey,
        make: impl FnOnce(usize) -> Result<usize, String>,
    ) -> Option<Turnover> {
        let turnover = sharing::carry_out(&mut self.core, key, make);
        self.settle();
        turnover
    }
}
