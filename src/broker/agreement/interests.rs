//! What the process was told is wanted, against who is there.

use std::collections::BTreeSet;

use super::counted::sessions;
use crate::broker::state::core::Core;
use crate::broker::state::interest::InterestIn;
use crate::broker::state::keys::{ApplicationKey, ChannelKey, NodeKey};

pub(super) fn check(core: &Core) -> Result<(), String> {
    if !core.interests.has_hook() {
        return Ok(());
    }
    let router = &core.router;
    let mut wanted = BTreeSet::new();
    let mut want = |application: ApplicationKey, subject: InterestIn<'_>| {
        let Some(application) = router.applications.get(application) else { return };
        let (kind, name) = subject.named();
        wanted.insert((application.id.to_string(), kind, name.to_owned()));
    };
    let channel = |key: &ChannelKey| router.channels.get(*key).map(|channel| &*channel.id);
    let pattern = |key: &NodeKey| router.patterns.text(*key);
    for (_, session) in sessions(core).filter(|(key, _)| !core.connections.is_link(*key)) {
        let application = session.application;
        want(application, InterestIn::Application);
        for id in session.subscriptions.keys().filter_map(channel) {
            want(application, InterestIn::Channel(id));
        }
        for pattern in session.topic.iter().flat_map(|topic| topic.patterns.keys()).map(pattern) {
            want(application, InterestIn::Pattern(&pattern));
        }
        let served = session.worker.iter().flat_map(|worker| &worker.channels);
        for id in served.filter_map(channel) {
            want(application, InterestIn::Workers(id));
        }
    }
    for (key, _) in router.applications.iter().filter(|(_, application)| application.pinned) {
        want(key, InterestIn::Application);
    }
    for (_, channel) in router.channels.iter().filter(|(_, channel)| channel.answers) {
        want(channel.application, InterestIn::Workers(&channel.id));
    }
    let told = &core.interests.told;
    if *told != wanted {
        let differs: Vec<_> = told.symmetric_difference(&wanted).collect();
        return Err(format!("the process was told otherwise of {differs:?}"));
    }
    Ok(())
}
