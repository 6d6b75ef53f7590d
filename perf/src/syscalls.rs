//! System calls of a server, counted by strace.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::figures::{Figure, Sample};
use crate::load::Outcome;

const POLLS: [&str; 5] = ["epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll"];
const READS: [&str; 4] = ["read", "readv", "recvfrom", "recvmsg"];
const WRITES: [&str; 4] = ["write", "writev", "sendto", "sendmsg"];

/// Counts the calls of a process during `work`, per request that it answers.
pub(crate) fn count(
    strace: &Path,
    pid: Pid,
    state: &Path,
    work: impl FnOnce() -> Result<Outcome, String>,
) -> Result<Sample, String> {
    let counts = state.join("strace");
    let mut command = Command::new(strace);
    command.args(["-f", "-c", "-p", &pid.to_string(), "-o"]).arg(&counts);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("cannot start strace: {error}"))?;
    let mut words = BufReader::new(child.stderr.take().ok_or("strace has no output")?);
    let mut line = String::new();
    // strace prints `Process N attached`, with the threads in the same line.
    let is_attached = words.read_line(&mut line).is_ok() && line.contains("attached");
    let outcome = if is_attached { Some(work()) } else { None };
    // strace writes its counts when it is interrupted.
    let stopped = kill_process(Pid::from_child(&child), Signal::INT);
    let _ = words.read_to_string(&mut line);
    let ended = child.wait();
    let Some(outcome) = outcome else {
        return Err(format!("strace cannot attach: {}", line.trim()));
    };
    stopped.map_err(|error| format!("strace does not stop: {error}"))?;
    ended.map_err(|error| format!("strace does not end: {error}"))?;
    let table = fs::read_to_string(&counts).map_err(|error| format!("strace: {error}"))?;
    Ok(per_request(&parse(&table), outcome?.answered))
}

/// Parses the table of counts. Returns the calls by name.
fn parse(table: &str) -> BTreeMap<&str, u64> {
    let row = |line| {
        // The columns are share, seconds, microseconds per call, calls, errors if any, and name.
        let columns: Vec<&str> = str::split_whitespace(line).collect();
        let name = *columns.last()?;
        let calls = columns.get(3)?.parse().ok()?;
        (name != "total").then_some((name, calls))
    };
    table.lines().filter_map(row).collect()
}

fn per_request(calls: &BTreeMap<&str, u64>, answered: u64) -> Sample {
    let sum = |names: &[&str]| names.iter().filter_map(|name| calls.get(name)).sum::<u64>();
    let all: u64 = calls.values().sum();
    let (polls, reads, writes) = (sum(&POLLS), sum(&READS), sum(&WRITES));
    let each = |calls: u64| calls as f64 / answered.max(1) as f64;
    Sample::from([
        (Figure::PollsPerRequest, each(polls)),
        (Figure::ReadsPerRequest, each(reads)),
        (Figure::WritesPerRequest, each(writes)),
        (Figure::OtherSyscallsPerRequest, each(all - polls - reads - writes)),
        (Figure::SyscallsPerRequest, each(all)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_for_each_request() {
        let table = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.001000           1       200           write
 30.00    0.000500           1       300       100 read
 10.00    0.000100           1       100           epoll_wait
  0.00    0.000000           0        50           futex
------ ----------- ----------- --------- --------- ----------------
100.00    0.001600           1       650       100 total
";
        let found = per_request(&parse(table), 100);
        assert_eq!(
            found,
            Sample::from([
                (Figure::PollsPerRequest, 1.0),
                (Figure::ReadsPerRequest, 3.0),
                (Figure::WritesPerRequest, 2.0),
                (Figure::OtherSyscallsPerRequest, 0.5),
                (Figure::SyscallsPerRequest, 6.5),
            ])
        );
    }
}
