//! The numbers of subscribers and workers of channels, copied a few at a time, so that the loop never
//! stops for long.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use ipc_framework::{Context, Handle, HandleError};
use serde::Serialize;

/// The most channels with series of their own, unless `--metrics-channels` says otherwise, because each
/// channel that a peer creates would be more series of the scraper. The status page has a line for each
/// of them.
pub(super) const CHANNELS_MAX: usize = 1_024;
/// Channels that are copied in one turn.
const COPIES_PER_TURN_MAX: usize = 128;

/// The numbers of one channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Numbers {
    pub(super) subscribers: u64,
    pub(super) workers: u64,
    pub(super) has_handler: bool,
    pub(super) kept_requests: u64,
}

/// The numbers of channels, by application and name.
pub(super) type Channels = BTreeMap<(String, String), Numbers>;

/// Copies the numbers of the first channels of the table, in which a channel keeps its place. So of
/// more than `channels_max` it is always the same ones that have series, as long as they live.
pub(super) fn copy(handle: &Handle, channels_max: usize) -> Result<Channels, HandleError> {
    let mut copied = Channels::new();
    for skipped in (0..channels_max).step_by(COPIES_PER_TURN_MAX) {
        let wanted = COPIES_PER_TURN_MAX.min(channels_max - skipped);
        let bite = handle.with(move |context| copy_some(context, skipped, wanted))?;
        let is_last = bite.len() < wanted;
        copied.extend(bite);
        if is_last {
            break;
        }
    }
    Ok(copied)
}

fn copy_some(
    context: &Context<'_>,
    skipped: usize,
    wanted: usize,
) -> Vec<((String, String), Numbers)> {
    let mut seen = 0;
    let mut bite = Vec::with_capacity(wanted);
    context.for_each_channel(|app_id, channel_id, info| {
        seen += 1;
        if seen > skipped {
            let numbers = Numbers {
                subscribers: info.subscribers as u64,
                workers: info.workers as u64,
                has_handler: info.has_handler,
                kept_requests: info.kept_requests as u64,
            };
            bite.push(((app_id.to_owned(), channel_id.to_owned()), numbers));
        }
        if bite.len() < wanted { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    bite
}
