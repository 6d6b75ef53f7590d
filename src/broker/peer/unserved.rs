//! The error for a request on a channel that nobody serves. It names what exists instead, because the
//! usual reason is a wrong name of the channel or of the application.

use crate::broker::state::core::Core;
use crate::broker::state::keys::{ApplicationKey, ConnectionKey};
use crate::broker::state::refusal::{self, Alternatives, Refusal};
use crate::proto::Envelope;

/// Entries that a search looks at. It costs about as much as the rest of the request, so that a peer
/// gains nothing by such requests.
const ENTRIES_MAX: usize = 64;
/// Room of a table that a search looks through, because empty places cost time as well.
const PLACES_MAX: usize = 128;

/// Returns the error, with names that the requester could also ask for by `list_channels` and
/// `list_applications`.
#[cold]
pub(crate) fn no_handler(core: &Core, from: ConnectionKey, envelope: &Envelope<'_>) -> Refusal {
    let channel_id = envelope.channel_id().decode();
    let Some(session) = core.connections.session(from) else { return refusal::channel_gone() };
    let Some(application) = core.router.applications.get(session.application) else {
        return refusal::channel_gone();
    };
    let alternatives = served_channels(core, session.application).unwrap_or_else(|| {
        // If there are tokens, applications do not see one another.
        let others = core.access.is_open().then(|| other_applications(core, session.application));
        Alternatives::Applications(others.unwrap_or_default())
    });
    refusal::no_handler(&channel_id, &application.id, &alternatives)
}

/// Returns the channels of an application whose requests somebody answers, sorted; `None` if there
/// are none.
fn served_channels(core: &Core, key: ApplicationKey) -> Option<Alternatives<'_>> {
    let application = core.router.applications.get(key)?;
    if application.channels.capacity() > PLACES_MAX || application.channels.len() > ENTRIES_MAX {
        return Some(Alternatives::ManyChannels(application.channels.len()));
    }
    let served = core
        .router
        .channels_of(key)
        .filter(|channel| channel.has_handler || !channel.service.workers.is_empty());
    let mut names: Vec<&str> = served.map(|channel| &*channel.id).collect();
    names.sort_unstable();
    (!names.is_empty()).then_some(Alternatives::Channels(names))
}

/// Returns the other applications, sorted, as far as they are in the first places of the table.
fn other_applications(core: &Core, own: ApplicationKey) -> Vec<&str> {
    let entries = (0..ENTRIES_MAX).filter_map(|place| core.router.applications.at(place));
    let others = entries.filter(|(key, _)| *key != own);
    let mut names: Vec<&str> = others.map(|(_, application)| &*application.id).collect();
    names.sort_unstable();
    names
}
