//! What the process is told about who is there, see
//! [`Broker::on_interest`](crate::broker::Broker::on_interest).

#[cfg(any(test, feature = "simulation"))]
use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Something of an application that is wanted from now on, or no longer. `Server::on_interest` tells
/// of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Interest<'a> {
    /// The id of the application.
    pub application: &'a str,
    /// What is wanted of it.
    pub subject: InterestIn<'a>,
    /// The first one wants it. `false`: the last one has left.
    pub is_wanted: bool,
}

/// What is wanted of an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum InterestIn<'a> {
    /// The application itself: it has a client, or the process has created it.
    Application,
    /// Publications on the channel with this id: it has a subscriber.
    Channel(&'a str),
    /// Publications on all channels that match this pattern: it has a subscriber.
    Pattern(&'a str),
    /// Requests on the channel with this id: it has a worker, or the process has set a handler of its
    /// requests. The fallback is none.
    Workers(&'a str),
}

pub(crate) type InterestHook = Box<dyn FnMut(&Interest<'_>) + Send + 'static>;

/// Whose hook it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listener {
    /// The process's, which embeds the server.
    Process,
    /// What joins the server with others.
    #[cfg_attr(
        not(any(test, feature = "nats", feature = "simulation")),
        expect(dead_code, reason = "only the bridge is one")
    )]
    Bridge,
}

/// The hooks that are set.
#[derive(Default)]
pub(crate) struct Interests {
    hooks: [Option<InterestHook>; 2],
    /// The hook that is being told what is there already.
    new: Option<Listener>,
    /// All that is wanted by what was told: the application, the kind, and the name.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) told: BTreeSet<(String, &'static str, String)>,
}

impl fmt::Debug for Interests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interests").field("has_hook", &self.has_hook()).finish_non_exhaustive()
    }
}

impl Interests {
    #[inline]
    pub(crate) fn has_hook(&self) -> bool {
        self.hooks.iter().any(Option::is_some)
    }

    /// Sets a hook. Until `all_told`, it alone is told.
    pub(crate) fn set(&mut self, listener: Listener, hook: InterestHook) {
        self.hooks[listener as usize] = Some(hook);
        self.new = Some(listener);
        #[cfg(any(test, feature = "simulation"))]
        self.told.clear();
    }

    /// The new hook has been told what was there.
    pub(crate) fn all_told(&mut self) {
        self.new = None;
    }

    /// Calls the hooks. Returns whether one of them panicked.
    pub(crate) fn tell(&mut self, interest: &Interest<'_>) -> bool {
        #[cfg(any(test, feature = "simulation"))]
        {
            let (kind, name) = interest.subject.named();
            let entry = (interest.application.to_owned(), kind, name.to_owned());
            let is_new =
                if interest.is_wanted { self.told.insert(entry) } else { self.told.remove(&entry) };
            assert!(is_new, "it was told before: {interest:?}");
        }
        let new = self.new;
        let is_told = |at: usize| new.is_none_or(|new| new as usize == at);
        let mut panicked = false;
        for (at, hook) in self.hooks.iter_mut().enumerate() {
            if let Some(hook) = hook.as_mut().filter(|_| is_told(at)) {
                panicked |= catch_unwind(AssertUnwindSafe(|| hook(interest))).is_err();
            }
        }
        panicked
    }
}

#[cfg(any(test, feature = "simulation"))]
impl<'a> InterestIn<'a> {
    /// Returns the kind, and the name.
    pub(crate) fn named(self) -> (&'static str, &'a str) {
        match self {
            Self::Application => ("application", ""),
            Self::Channel(id) => ("channel", id),
            Self::Pattern(pattern) => ("pattern", pattern),
            Self::Workers(id) => ("workers", id),
        }
    }
}
