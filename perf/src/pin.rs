//! Pins the server and the generator to processors.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors of a run: the server's and the generator's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpus {
    pub(crate) server: usize,
    pub(crate) generator: usize,
}

impl Cpus {
    /// Chooses the first two processors that this process may run on, unless others are given.
    pub(crate) fn choose(server: Option<usize>, generator: Option<usize>) -> Result<Self, String> {
        let allowed = sched_getaffinity(None).map_err(|error| format!("affinity: {error}"))?;
        let mut free = (0..CpuSet::MAX_CPU)
            .filter(|cpu| allowed.is_set(*cpu))
            .filter(|cpu| Some(*cpu) != server && Some(*cpu) != generator);
        let mut choose = |told: Option<usize>| told.or_else(|| free.next());
        match (choose(server), choose(generator)) {
            (Some(server), Some(generator)) if server != generator => {
                Ok(Self { server, generator })
            }
            (Some(_), Some(_)) => Err("server and generator need a processor each".into()),
            _ => Err("server and generator need a processor each; this process has one".into()),
        }
    }

    /// Pins this thread to the generator's processor.
    pub(crate) fn pin_generator(self) -> Result<(), String> {
        pin(self.generator)
    }

    /// Runs `start` pinned to the server's processor. Processes and threads that it starts inherit
    /// this.
    pub(crate) fn on_server<T>(self, start: impl FnOnce() -> T) -> Result<T, String> {
        pin(self.server)?;
        let started = start();
        pin(self.generator)?;
        Ok(started)
    }
}

fn pin(cpu: usize) -> Result<(), String> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(|error| format!("cannot pin to CPU {cpu}: {error}"))
}
