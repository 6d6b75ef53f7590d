//! Processor time and memory of a process, as the kernel counts them.

use std::fs;
use std::time::Duration;

use rustix::param::clock_ticks_per_second;
use rustix::process::Pid;

/// Returns the processor time of all threads of a process, as the scheduler counts it: exact for a
/// thread that sleeps, and up to the last tick for one that runs.
pub(crate) fn cpu_time(pid: Pid) -> Option<Duration> {
    let threads = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).ok()?;
    let nanos = threads.flatten().filter_map(|thread| {
        let times = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        times.split(' ').next()?.parse::<u64>().ok()
    });
    nanos.reduce(|sum, more| sum + more).map(Duration::from_nanos)
}

/// Returns the time in which processors of the machine worked, or were taken away by its host.
pub(crate) fn busy_time() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let all = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = all.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    // The fields are user nice system idle iowait irq softirq steal; later ones are contained in
    // user and nice.
    let [user, nice, system, _, _, irq, softirq, steal, ..] = fields[..] else { return None };
    Some(ticks(user + nice + system + irq + softirq + steal))
}

fn ticks(count: u64) -> Duration {
    Duration::from_secs_f64(count as f64 / clock_ticks_per_second() as f64)
}

/// Returns the resident memory of a process in bytes.
pub(crate) fn resident_bytes(pid: Pid) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes << 10)
}
