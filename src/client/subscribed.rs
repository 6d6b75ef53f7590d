//! The server's answer to a subscription or a publication.

use serde::Deserialize;

use crate::proto::Message;
use crate::proto::position::Position;

/// The server's answer to a subscription, as
/// [`Connection::subscribe_with`](super::Connection::subscribe_with) returns it.
///
/// ```no_run
/// use ipc_framework::client::{Options, Position, SubscribeOptions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let seen = Position::new("k3XmQ81a", 42);
/// let mut connection = Options::new("shop").connect()?;
/// let subscribed = connection.subscribe_with("orders", &SubscribeOptions::default().since(seen))?;
/// if subscribed.recovered == Some(false) {
///     println!("a part is gone: load all orders anew, up to {:?}", subscribed.position);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Subscribed {
    /// The place of the newest publication in the channel's history, if the channel has one.
    pub position: Option<Position>,
    /// Tells, after `last` or `since`, whether all that was asked for follows. If not, the publications
    /// after `since` are gone, or it was the place in a history of another epoch.
    pub recovered: Option<bool>,
}

/// The members of the answer to a subscription, and those of the answer to a publication.
#[derive(Default, Deserialize)]
struct Answer {
    epoch: Option<String>,
    offset: Option<u64>,
    recovered: Option<bool>,
}

impl Subscribed {
    /// Reads an answer. What is not usable counts as absent.
    pub(super) fn read(answer: &Message) -> Self {
        let Answer { epoch, offset, recovered } = answer.payload.decode_text().unwrap_or_default();
        let position = epoch.zip(offset).map(|(epoch, offset)| Position::new(epoch, offset));
        Self { position, recovered }
    }
}
