//! The searches of patterns, and the filter, which is asked about each channel that one finds.

use crate::broker::embed::handlers::Handlers;
use crate::broker::flow::topic::searches;
use crate::broker::state::core::Core;
use crate::broker::state::keys::ConnectionKey;

/// Goes on with the search of a connection, if it has one. The rest waits for a later turn.
#[cold]
pub(crate) fn go_on(core: &mut Core, handlers: &mut Handlers, key: ConnectionKey) {
    let Some((found, is_over)) = searches::next(core, key) else { return };
    for channel in found {
        if handlers.has_filter(core)
            && let Some(id) = core.router.channels.get(channel).map(|found| found.id.clone())
        {
            handlers.ask_about(core, key, &id);
        }
        searches::take(core, key, channel);
    }
    if is_over {
        searches::end(core, key);
    } else {
        searches::hold(core, key);
    }
}
