//! Changes to the handlers. They may be requested while a handler is running, so they wait on the
//! agenda until none is.

use super::context::Context;
use super::request::{Delivery, Request, RequestResult, Verdict};
use crate::broker::state::core::Core;
use crate::broker::state::events::ConnectionInfo;
use crate::broker::state::keys::ChannelKey;
use crate::handler_error::HandlerError;

pub(crate) type RequestHandler =
    Box<dyn for<'a> FnMut(Request<'a>) -> RequestResult<'a> + Send + 'static>;
pub(crate) type DeliveryHandler =
    Box<dyn for<'a> FnMut(Delivery<'a>) -> Result<(), HandlerError> + Send + 'static>;
pub(crate) type ConnectionHook =
    Box<dyn FnMut(&ConnectionInfo<'_>, &mut Context<'_>) + Send + 'static>;
pub(crate) type Filter =
    Box<dyn FnMut(&mut Delivery<'_>) -> Result<Verdict, HandlerError> + Send + 'static>;

/// A new handler, or the removal of some. Handlers without a channel are those of the fallback.
pub(crate) enum Change {
    Request(Option<ChannelKey>, RequestHandler),
    Notification(Option<ChannelKey>, DeliveryHandler),
    Response(Option<ChannelKey>, DeliveryHandler),
    Filter(Filter),
    Connected(ConnectionHook),
    Disconnected(ConnectionHook),
    /// The channel was removed, and its handlers go with it.
    Removed(ChannelKey),
}

pub(crate) fn ask(core: &mut Core, change: Change) {
    core.agenda.handler_changes.push(Box::new(change));
}

/// Returns the requested changes, in order.
pub(crate) fn take(core: &mut Core) -> impl Iterator<Item = Change> + use<> {
    let changes = std::mem::take(&mut core.agenda.handler_changes).into_iter();
    changes.filter_map(|change| change.downcast().ok()).map(|change| *change)
}
