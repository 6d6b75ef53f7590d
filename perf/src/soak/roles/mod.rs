//! The roles, which run at the same time. Each round of a role is a script whose answers are all
//! known in advance.

mod access;
mod broadcast;
mod faults;
mod idle;
mod late;
mod notifications;
mod requests;
mod slow;
mod workers;

pub(super) use self::access::prepare;
pub(crate) use self::slow::Reader;
use super::context::{Context, Random};

pub(super) type Script = fn(&Context<'_>, &mut Random) -> Result<(), String>;

#[derive(Clone, Copy, Debug)]
pub(super) struct Role {
    pub(super) name: &'static str,
    pub(super) script: Script,
    /// The number of threads that play this role, each with peers of its own.
    pub(super) threads: usize,
    /// The shortest run that has time for a round of this role.
    pub(super) seconds_min: u64,
}

const fn role(name: &'static str, threads: usize, script: Script) -> Role {
    Role { name, script, threads, seconds_min: 0 }
}

pub(super) const ROLES: [Role; 11] = [
    role("requests", 2, requests::round),
    role("workers", 2, workers::round),
    role("publications", 2, broadcast::publications),
    role("fan-out", 1, broadcast::fan_out),
    role("notifications", 1, notifications::round),
    role("faults", 2, faults::round),
    role("slow-reader", 1, slow::never_reads),
    role("stopped-reader", 1, slow::is_stopped),
    role("access", 1, access::run),
    role("idle", 1, idle::run),
    Role { name: "late", script: late::round, threads: 1, seconds_min: 60 },
];
