//! Requests without an answer, by their ids: a response that a program builds by hand says
//! which one it answers, and nothing else.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ipc_framework::ConnectionKey;

use super::origin::Origin;

#[derive(Default)]
pub(super) struct Pending {
    by_id: HashMap<Box<str>, Vec<Arc<Origin>>>,
    /// Those whose handlers have returned, in the order in which their time is over.
    returned: VecDeque<(Instant, Weak<Origin>)>,
    is_stopping: bool,
}

impl Pending {
    pub(super) fn insert(&mut self, origin: &Arc<Origin>) {
        self.by_id.entry(origin.message_id.clone()).or_default().push(origin.clone());
    }

    /// The handler has returned without an answer, which somebody else may give. After
    /// `timeout` the requester was told that nobody did. A server that stops waits for coroutines
    /// only: then this is false.
    pub(super) fn await_answer(&mut self, origin: &Arc<Origin>, timeout: Duration) -> bool {
        if self.is_stopping {
            return origin.is_held();
        }
        let now = Instant::now();
        while let Some((deadline, oldest)) = self.returned.front()
            && (*deadline <= now || oldest.strong_count() == 0)
        {
            let oldest = oldest.upgrade();
            self.returned.pop_front();
            if let Some(oldest) = oldest {
                self.remove(&oldest);
            }
        }
        self.returned.push_back((now + timeout, Arc::downgrade(origin)));
        true
    }

    pub(super) fn remove(&mut self, origin: &Origin) {
        let Some(same_id) = self.by_id.get_mut(&origin.message_id) else { return };
        same_id.retain(|other| !std::ptr::eq(Arc::as_ptr(other), origin));
        if same_id.is_empty() {
            self.by_id.remove(&origin.message_id);
        }
    }

    /// The request that a response answers. Two requesters may use one id: the connection
    /// tells them apart, or else the one who asked first is served first.
    pub(super) fn find(
        &self,
        message_id: &str,
        app_id: &str,
        from: Option<ConnectionKey>,
    ) -> Option<Arc<Origin>> {
        let is_meant = |origin: &&Arc<Origin>| {
            &*origin.app_id == app_id && from.is_none_or(|from| origin.from == from)
        };
        self.by_id.get(message_id)?.iter().find(is_meant).cloned()
    }

    /// Those that nobody is known to work on. From now on there are to be no more.
    pub(super) fn stop(&mut self) -> Vec<Arc<Origin>> {
        self.is_stopping = true;
        let returned = self.returned.drain(..).filter_map(|(_, origin)| origin.upgrade());
        returned.filter(|origin| !origin.is_held()).collect()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping
    }
}
