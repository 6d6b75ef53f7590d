//! How busy the workers of a channel are, which other servers are told.

use std::collections::BTreeMap;

use crate::broker::state::core::Core;
use crate::broker::state::keys::{ConnectionKey, RequestKey};
use crate::broker::state::load::ChannelLoad;

/// Of so many requests of a channel at most it is looked at whose they are. If there are more, these stand for
/// all.
const LOOKS_PER_CHANNEL_MAX: usize = 1_024;
/// So many are looked at for all channels together. The channels behind that are left out.
const LOOKS_MAX: usize = 8_192;
/// The beginning of the id of a link to a server.
const LINK_IDS: &str = "$link/";

/// Returns how busy the local workers of these channels are, as far as they have any. Some at the end are left
/// out if it is too much work.
pub(crate) fn of(core: &Core, names: &[(String, String)]) -> Vec<ChannelLoad> {
    let (mut loads, mut looks) = (Vec::new(), 0);
    for (application, channel) in names {
        if looks >= LOOKS_MAX {
            break;
        }
        let key = core.router.application(application);
        let key = key.and_then(|key| core.router.channel(key, channel));
        let Some(found) = key.and_then(|key| core.router.channels.get(key)) else { continue };
        if !found.is_served() {
            continue;
        }
        let mut load = ChannelLoad { workers: 1, ..ChannelLoad::default() };
        (load.application, load.channel) = (application.clone(), channel.clone());
        looks += 1;
        let of_link = |request: &RequestKey| {
            let request = core.requests.get(*request).filter(|it| Some(it.channel) == key)?;
            Some(request.requester).filter(|requester| core.connections.is_link(*requester))
        };
        let mut of_links: BTreeMap<ConnectionKey, usize> = BTreeMap::new();
        let mut looked = 0;
        let mut count = |requests: &mut dyn Iterator<Item = RequestKey>| {
            for request in requests.take(LOOKS_PER_CHANNEL_MAX.saturating_sub(looked)) {
                looked += 1;
                if let Some(link) = of_link(&request) {
                    *of_links.entry(link).or_default() += 1;
                }
            }
        };
        let (mut workers, mut room, mut in_flight) = (0, Some(0), 0);
        for worker in found.service.workers.iter().filter(|worker| !worker.is_link()) {
            looks += 1;
            workers += 1;
            room = room.zip(worker.room()).map(|(room, more)| room + i64::from(more));
            let session = core.connections.session(worker.key);
            let Some(duties) = session.and_then(|session| session.worker.as_ref()) else {
                continue;
            };
            in_flight += duties.in_flight.len();
            count(&mut duties.in_flight.iter().copied());
        }
        in_flight += found.service.kept.len();
        count(&mut found.service.kept.iter());
        looks += looked;
        // A handler in the process is a worker whose requests nobody counts.
        load.workers = load.workers.max(workers);
        let room = room.filter(|_| workers > 0 && !found.answers);
        load.room =
            room.map(|room| room - i64::try_from(found.service.kept.len()).unwrap_or_default());
        load.in_flight = u32::try_from(in_flight).unwrap_or(u32::MAX);
        for (link, requests) in of_links {
            let id = core.connections.session(link).map(|session| &*session.id);
            let Some(server) = id.and_then(|id| id.strip_prefix(LINK_IDS)) else { continue };
            let requests = requests * in_flight.max(looked) / looked.max(1);
            let requests = u32::try_from(requests).unwrap_or(u32::MAX);
            *load.of_servers.entry(server.to_owned()).or_default() += requests;
        }
        loads.push(load);
    }
    loads
}
