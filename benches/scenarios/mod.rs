//! The scenarios, which the clock and the instruction counter share.
//!
//! They use the public names of the crate alone, so that internals can change and no benchmark has
//! to be rewritten.

mod encoder;
mod fan_out;
mod frames;
mod history;
mod memory;
mod messages;
mod requests;
mod router;
mod scanner;
mod sockets;
#[cfg(feature = "tls")]
mod tls;

/// One operation, ready to be repeated.
pub(crate) type Round = Box<dyn FnMut()>;

/// An operation with a number of its own.
pub(crate) struct Scenario {
    /// `group/name`.
    pub(crate) name: &'static str,
    pub(crate) work: Work,
    set_up: Box<dyn Fn() -> Round>,
}

/// The amount of work in one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Bytes looked at.
    Bytes(usize),
    /// Frames taken in or handed out.
    Frames(usize),
}

impl Scenario {
    fn new<F: FnMut() + 'static>(
        name: &'static str,
        work: Work,
        set_up: impl Fn() -> F + 'static,
    ) -> Self {
        Self { name, work, set_up: Box::new(move || Box::new(set_up())) }
    }

    /// Makes everything that a round needs and that is not measured.
    pub(crate) fn set_up(&self) -> Round {
        (self.set_up)()
    }
}

/// Every scenario, in the order in which they are reported.
pub(crate) fn all() -> Vec<Scenario> {
    let groups = [
        scanner::scenarios(),
        frames::scenarios(),
        encoder::scenarios(),
        router::scenarios(),
        fan_out::scenarios(),
        history::scenarios(),
        requests::scenarios(),
    ];
    groups.into_iter().flatten().collect()
}
