//! System calls of the server in steady state, counted by strace on the program as users run it:
//! one poll, one read and one write for what one turn does for a connection.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::scratch::Scratch;
use crate::support::{Peer, eventually};

/// Rounds before counting starts, in which buffers and tables grow to their size.
const WARM_UP: usize = 20;
const ROUNDS: usize = 100;
const POLLS: [&str; 3] = ["epoll_wait", "epoll_pwait", "epoll_pwait2"];
const READS: [&str; 4] = ["read", "readv", "recvfrom", "recvmsg"];
const WRITES: [&str; 4] = ["write", "writev", "sendto", "sendmsg"];

/// `ipc serve --demo` under strace.
struct Traced {
    child: Child,
    /// Kept because a write to a closed pipe would end the other side.
    _stdout: BufReader<ChildStdout>,
    tcp: SocketAddr,
    scratch: Scratch,
}

impl Traced {
    fn start(name: &str) -> Self {
        let scratch = Scratch::new(&format!("syscalls-{name}"));
        let mut child = Command::new("strace")
            // strace runs as a grandchild, so that the server is our own child and can be
            // signalled.
            .args(["-D", "-f", "-q", "-s", "1024", "-o"])
            .arg(scratch.0.join("trace"))
            .arg(env!("CARGO_BIN_EXE_ipc"))
            .args(["serve", "--demo", "--host", "127.0.0.1", "--port", "0", "--unix"])
            .arg(scratch.socket())
            .env_remove("IPC_TOKEN")
            .env_remove("IPC_LOG")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| match error.kind() {
                ErrorKind::NotFound => panic!(
                    "strace is not installed, and this test counts with it; on Debian and \
                     Ubuntu: apt-get install strace"
                ),
                _ => panic!("strace does not start: {error}"),
            });
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut tcp = None;
        loop {
            let mut line = String::new();
            if stdout.read_line(&mut line).unwrap() == 0 {
                let said = child.wait_with_output().unwrap().stderr;
                panic!("it does not run under strace: {}", String::from_utf8_lossy(&said));
            }
            if let Some(address) = line.strip_prefix("listening on ") {
                tcp = tcp.or_else(|| address.trim().parse().ok());
            } else if line.contains("stop with Ctrl-C") {
                break;
            }
        }
        Self { child, _stdout: stdout, tcp: tcp.expect("a TCP address"), scratch }
    }

    fn over_tcp(&self, connection_id: &str) -> Peer {
        let mut peer = Peer::new(self.tcp);
        peer.connect("bench", connection_id);
        peer
    }

    fn over_unix(&self, connection_id: &str) -> Peer {
        let mut peer = Peer::over_unix(&self.scratch.socket()).unwrap();
        peer.connect("bench", connection_id);
        peer
    }

    /// Ends the server and returns its trace.
    fn end(mut self) -> String {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").arg(&id).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
        // strace ends a little later than the server, because it still writes the trace.
        eventually("the end of the trace", || {
            let trace = fs::read(self.scratch.0.join("trace")).unwrap();
            let trace = String::from_utf8_lossy(&trace).into_owned();
            let is_last = |line: &str| line.starts_with(&id) && line.contains("+++ exited");
            trace.lines().any(is_last).then_some(trace)
        })
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Repeats a round, in which the server has to send the payload to a peer. The first and the last
/// of the counted rounds carry marks, which [`calls`] finds in the trace.
fn repeat(mark: &str, mut round: impl FnMut(Value)) {
    for at in 0..WARM_UP {
        round(json!(at));
    }
    round(json!(format!("{mark} begins")));
    for at in 1..ROUNDS {
        round(json!(at));
    }
    round(json!(format!("{mark} ends")));
}

/// System calls of the thread that runs the loop.
#[derive(Debug, Default, PartialEq, Eq)]
struct Calls {
    polls: usize,
    reads: usize,
    writes: usize,
    others: BTreeMap<String, usize>,
}

/// Counts the calls after the last write with the first mark, up to the last one with the second
/// mark. These are [`ROUNDS`] whole rounds. Calls of other threads are left out, because one of
/// them waits for signals and may still be starting.
fn calls(trace: &str, mark: &str) -> Calls {
    let lines: Vec<&str> = trace.lines().collect();
    let last_write = |mark: String| {
        let is_one = |line: &&str| line.contains(&mark) && WRITES.iter().any(|w| *w == name(line));
        lines.iter().rposition(is_one).unwrap_or_else(|| panic!("{mark}: not in\n{trace}"))
    };
    let begin = last_write(format!("{mark} begins"));
    let end = last_write(format!("{mark} ends"));
    let thread = lines[end].split_once(' ').map_or("", |(thread, _)| thread);
    let of_loop =
        lines[begin + 1..=end].iter().filter(|line| line.split(' ').next() == Some(thread));
    let mut calls = Calls::default();
    for line in of_loop {
        match name(line) {
            "" => {}
            name if POLLS.contains(&name) => calls.polls += 1,
            name if READS.contains(&name) => calls.reads += 1,
            name if WRITES.contains(&name) => calls.writes += 1,
            other => *calls.others.entry(other.to_owned()).or_default() += 1,
        }
    }
    calls
}

/// Returns the call that begins on a line such as `42 read(3, …`. A line on which a call is
/// resumed, or a signal or an end is reported, has none.
fn name(line: &str) -> &str {
    let call = line.split_once(' ').map_or("", |(_, call)| call.trim_start());
    let name = call.split_once('(').map_or("", |(name, _)| name);
    let is_name =
        |name: &str| name.bytes().all(|b| b.is_ascii_lowercase() || b"_0123456789".contains(&b));
    if is_name(name) { name } else { "" }
}

#[track_caller]
fn assert_a_round_takes(trace: &str, mark: &str, polls: usize, reads: usize, writes: usize) {
    let calls = calls(trace, mark);
    println!("{ROUNDS} rounds of {mark}: {calls:?}");
    assert!(calls.writes > 0 && calls.reads > 0, "{mark}: the trace was misread: {calls:?}");
    assert!(
        calls.polls <= polls * ROUNDS
            && calls.reads <= reads * ROUNDS
            && calls.writes <= writes * ROUNDS
            && calls.others.is_empty(),
        "{mark}: {calls:?} in {ROUNDS} rounds, each of which is worth {polls} polls, {reads} \
         reads, {writes} writes and nothing else"
    );
}

#[test]
fn a_trace_is_read_as_it_is_written() {
    let trace = "\
        7  write(9, \"\\\"x begins\\\"\", 10) = 10\n\
        8  mmap(NULL, 16384) = 0x7f00\n\
        8  recvfrom(5,  <unfinished ...>\n\
        7  epoll_wait(3, [{events=EPOLLIN}], 1024, -1) = 1\n\
        7  recvfrom(9, <unfinished ...>\n\
        8  <... recvfrom resumed>\"\", 1, 0, NULL, NULL) = 0\n\
        7  <... recvfrom resumed>\"x ends (really)\", 65536, 0, NULL, NULL) = 10\n\
        7  brk(0x5581)                = 0x5581\n\
        7  --- SIGTERM {si_signo=SIGTERM} ---\n\
        7  writev(9, [{iov_base=\"x ends\"}], 1) = 10\n\
        7  close(9) = 0\n\
        7  +++ exited with 0 +++\n";
    let others = BTreeMap::from([("brk".to_owned(), 1)]);
    assert_eq!(calls(trace, "x"), Calls { polls: 1, reads: 1, writes: 1, others });
}

#[test]
fn a_request_takes_one_poll_one_read_and_one_write() {
    let server = Traced::start("request");
    let peers = [("over TCP", server.over_tcp("tcp")), ("over Unix", server.over_unix("unix"))];
    let marks = peers.map(|(mark, mut peer)| {
        repeat(mark, |payload| assert_eq!(peer.request("echo", payload.clone()), payload));
        mark
    });
    let trace = server.end();
    for mark in marks {
        assert_a_round_takes(&trace, mark, 1, 1, 1);
    }
}

#[test]
fn requests_that_come_together_take_no_more_than_one() {
    const TOGETHER: usize = 32;
    let server = Traced::start("pipelined");
    let mut peer = server.over_tcp("client");
    repeat("32 requests", |payload| {
        let requests = [(); TOGETHER].map(|()| peer.message("request", "echo", &payload));
        peer.send_all(&requests);
        for _ in 0..TOGETHER {
            assert_eq!(peer.receive()["payload"], payload);
        }
    });
    assert_a_round_takes(&server.end(), "32 requests", 1, 1, 1);
}

#[test]
fn a_forwarded_request_takes_two_of_each() {
    let server = Traced::start("forwarded");
    let mut worker = server.over_unix("worker");
    worker.serve("work");
    let mut client = server.over_tcp("client");
    repeat("forwarded", |payload| {
        client.send("request", "work", payload.clone());
        let task = worker.receive();
        worker.answer(&task, payload.clone());
        assert_eq!(client.receive()["payload"], payload);
    });
    assert_a_round_takes(&server.end(), "forwarded", 2, 2, 2);
}

#[test]
fn a_publication_takes_one_write_for_each_subscriber() {
    const SUBSCRIBERS: usize = 10;
    let server = Traced::start("publication");
    // The subscribers stay connected until the end, so that their closing is not counted.
    let mut present = Vec::new();
    let marks = [("to TCP", "tcp"), ("to Unix", "unix")];
    for (mark, channel_id) in marks {
        let connected = |id: String| match channel_id {
            "tcp" => server.over_tcp(&id),
            _ => server.over_unix(&id),
        };
        let mut subscribers: Vec<Peer> =
            (0..SUBSCRIBERS).map(|at| connected(format!("{channel_id}-{at}"))).collect();
        for subscriber in &mut subscribers {
            subscriber.subscribe(channel_id);
        }
        let mut publisher = connected(format!("{channel_id}-publisher"));
        repeat(mark, |payload| {
            publisher.send("publish", channel_id, payload.clone());
            for subscriber in &mut subscribers {
                assert_eq!(subscriber.receive()["payload"], payload);
            }
        });
        present.extend(subscribers);
        present.push(publisher);
    }
    let trace = server.end();
    for (mark, _) in marks {
        assert_a_round_takes(&trace, mark, 1, 1, SUBSCRIBERS);
    }
}
