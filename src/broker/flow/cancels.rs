//! Tells workers that a request is over, or that its requester takes more parts. A worker whose queue
//! is over its mark is told later: one notification for each request at most.

use serde::Serialize;

use super::{calls, measuring, queues};
use crate::branches::{self, Branch};
use crate::broker::state::budget::OWED_BYTES;
use crate::broker::state::connection::Owed;
use crate::broker::state::core::Core;
use crate::broker::state::encoder::Address;
use crate::broker::state::keys::{ApplicationKey, ConnectionKey, RequestKey};
use crate::broker::state::request_id::RequestId;
use crate::broker::state::requests::Answerer;
use crate::proto::system::{Cancel, CancelReason, Credit, SYSTEM};
use crate::proto::{Extensions, MessageType};

/// Tells a worker that a request which it has is over, if it understands that.
#[cold]
pub(crate) fn tell(
    core: &mut Core,
    worker: ConnectionKey,
    request: RequestId,
    reason: CancelReason,
) {
    if !calls::has(core, worker, Extensions::CALL) {
        return;
    }
    if is_behind(core, worker) {
        owe(core, worker, Owed::Cancel(request, reason));
    } else {
        notify(core, worker, &Cancel::new(request.text().as_str()).reason(reason));
    }
}

/// Tells the worker of a stream how many more parts its requester takes. That waits until the queues
/// of both are within their marks.
pub(crate) fn pass_credit(core: &mut Core, key: RequestKey) {
    let Some((request, call)) = core.requests.with_call(key) else { return };
    let Some(stream) = call.stream.as_mut().filter(|stream| stream.owes()) else { return };
    let is_behind = |key| core.connections.get(key).is_some_and(|found| found.congested.is_some());
    if is_behind(request.requester) {
        // It would not read the parts. They are allowed when its queue has room again.
        return;
    }
    let worker = match request.answerer {
        Answerer::Worker(worker, _) => worker,
        // The request itself tells of the first ones, and the worker of the rest when it gets that.
        Answerer::Kept(_) => return,
        Answerer::Thread => {
            let credit = stream.take_owed();
            if let Some(watch) = &call.watch {
                watch.add_credit(credit);
            }
            return;
        }
    };
    let connection = core.connections.get(worker);
    if !connection.is_some_and(|found| found.extensions.contains(Extensions::CALL)) {
        stream.take_owed();
        return;
    }
    if is_behind(worker) {
        if !std::mem::replace(&mut stream.is_listed, true) {
            owe(core, worker, Owed::Credit(key));
        }
        return;
    }
    let (id, was_stalled, credit) = (request.id, stream.is_stalled(), stream.take_owed());
    if was_stalled {
        measuring::note_credit(core, worker);
    }
    notify(core, worker, &Credit::new(id.text().as_str(), credit));
}

/// Passes on the credit of a requester that came while its own queue was over its mark.
pub(crate) fn pass_all_credit(core: &mut Core, requester: ConnectionKey) {
    let session = core.connections.session(requester);
    let Some(session) = session.filter(|session| session.calls.is_some()) else { return };
    for request in session.requests.clone() {
        pass_credit(core, request);
    }
}

fn is_behind(core: &Core, worker: ConnectionKey) -> bool {
    let connection = core.connections.get(worker);
    connection.is_some_and(|connection| connection.congested.is_some())
}

fn owe(core: &mut Core, worker: ConnectionKey, what: Owed) {
    let session = core.connections.session_mut(worker);
    let Some(duties) = session.and_then(|session| session.worker.as_mut()) else { return };
    branches::note(Branch::WorkerToldLater);
    duties.owed.push_back(what);
    core.budget.tables_bytes += OWED_BYTES;
}

/// Tells a worker what it is owed, at most `most` things, and as long as its queue has room. Returns
/// how many more it may be told.
pub(crate) fn settle(core: &mut Core, worker: ConnectionKey, most: usize) -> usize {
    let mut left = most;
    while left > 0 && !is_behind(core, worker) {
        let session = core.connections.session_mut(worker);
        let duties = session.and_then(|session| session.worker.as_mut());
        let Some(owed) = duties.and_then(|duties| duties.owed.pop_front()) else { break };
        core.budget.tables_bytes -= OWED_BYTES;
        match owed {
            Owed::Cancel(id, reason) => {
                notify(core, worker, &Cancel::new(id.text().as_str()).reason(reason));
            }
            Owed::Credit(request) => {
                let found = core.requests.with_call(request);
                if let Some(stream) = found.and_then(|(_, call)| call.stream.as_mut()) {
                    stream.is_listed = false;
                }
                pass_credit(core, request);
            }
        }
        left -= 1;
    }
    left
}

/// Sends a notification on `system` to a worker.
fn notify<T: Serialize>(core: &mut Core, worker: ConnectionKey, payload: &T) {
    let Some(application) = application_of(core, worker) else { return };
    let Some(application) = core.router.applications.get(application) else { return };
    let address = Address { app_id: &application.id_json, channel_id: SYSTEM };
    let (gauge, unix) = (core.pool.gauge(), core.turn.now.unix);
    let message = MessageType::Notification;
    let encoded = core.encoder.own_value(gauge, unix, address, message, None, payload);
    debug_assert!(encoded.is_ok(), "a value of the server's own is always JSON");
    if let Ok(encoded) = encoded {
        queues::push(core, worker, &encoded.frame());
        core.encoder.recycle(encoded);
        core.turn.note_work(1);
    }
}

fn application_of(core: &Core, key: ConnectionKey) -> Option<ApplicationKey> {
    core.connections.session(key).map(|session| session.application)
}
