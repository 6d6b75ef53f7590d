#!/usr/bin/env python3
"""Breaks the server on purpose, one thing at a time, and sees whether the simulation notices.

    python3 tests/mutants.py                  all of them
    python3 tests/mutants.py ready worker     those with one of these words in their names

Each mutant is built in a copy of the repository under target/mutants and run from seed 0 until a
promise is broken. One that survives SEEDS_MAX seeds fails the run, and so does one whose place in
the code is not found any more: then it has to be written anew.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
COPY = ROOT / "target" / "mutants" / "tree"
SEEDS_MAX = 20_000

# Name, file, what stands there, what stands there instead.
MUTANTS = [
    (
        "a ready-list entry is dropped when the read budget is used up",
        "src/net/mod.rs",
        "            if budget_bytes == 0 {\n                socket.enlist(&mut self.ready);\n",
        "            if budget_bytes == 0 {\n",
    ),
    (
        "a resumed connection is not put into the ready list",
        "src/net/mod.rs",
        "                        socket.note_resumed();\n                    }\n"
        "                    self.make_ready(key);\n",
        "                        socket.note_resumed();\n                    }\n",
    ),
    (
        "a key is found whatever its generation",
        "src/broker/arena.rs",
        "        (entry.generation == key.generation).then_some(&entry.value)",
        "        Some(&entry.value)",
    ),
    (
        "a worker's late answer is taken for that to a later request",
        "src/broker/workers.rs",
        "        if !holds || pending.id != id {",
        "        if !holds {",
    ),
    (
        "the end of a short write is never sent",
        "src/net/socket.rs",
        "            if sent < wanted || self.holds {\n                return self.want_writable(true,",
        "            if sent < wanted || self.holds {\n                return self.want_writable(false,",
    ),
    (
        "who says no more is closed while its stream still keeps an answer",
        "src/broker/mod.rs",
        "        let unsent = is_queued || connection.transport_holds;",
        "        let unsent = is_queued;",
    ),
    (
        "what a stream keeps counts as sent when the last words are said",
        "src/broker/mod.rs",
        "c.send.is_empty() && !c.transport_holds",
        "c.send.is_empty()",
    ),
    (
        "a short write counts as whole",
        "src/net/socket.rs",
        "            broker.transmitted(self.key, sent);",
        "            broker.transmitted(self.key, if sent > 0 { wanted } else { 0 });",
    ),
    (
        "what a stream keeps to itself is not sent",
        "src/net/socket.rs",
        "            let Ok(is_flushed) = self.stream.flush() else",
        "            let Ok(is_flushed) = self.stream.flush().map(|_| true) else",
    ),
    (
        "an interrupted read ends the connection",
        "src/net/socket.rs",
        "            Err(error) if error.kind() == io::ErrorKind::Interrupted => Received::Nothing,\n",
        "",
    ),
    (
        "a full read buffer counts as an empty socket",
        "src/net/socket.rs",
        "bytes == buffer.len() || self.peer_finished || self.stream.holds_more();",
        "self.peer_finished || self.stream.holds_more();",
    ),
    (
        "the end behind the last bytes is not looked for",
        "src/net/socket.rs",
        "bytes == buffer.len() || self.peer_finished || self.stream.holds_more();",
        "bytes == buffer.len() || self.stream.holds_more();",
    ),
    (
        "a listener is forgotten after as many accepts as a turn takes",
        "src/net/accept.rs",
        "                Ok(stream) => Accepted::Stream(stream),",
        "                Ok(stream) => {\n"
        "                    watched.ready = false;\n"
        "                    Accepted::Stream(stream)\n"
        "                }",
    ),
    (
        "accepting stops for good once there are no descriptors",
        "src/net/accept.rs",
        "            // Somebody else took the descriptor; descriptors come back as connections close.\n"
        "            self.open.iter_mut().for_each(|each| each.retry_at = Some(now + RETRY_AFTER));\n",
        "            self.open.iter_mut().for_each(|each| each.ready = false);\n",
    ),
    (
        "listeners do not take turns",
        "src/net/accept.rs",
        "            self.next = at + 1;\n",
        "",
    ),
    (
        "an accept error of one listener puts off the others",
        "src/net/accept.rs",
        "                    watched.retry_at = Some(now + RETRY_AFTER);\n",
        "                    self.open.iter_mut().for_each(|each| each.retry_at = Some(now + RETRY_AFTER));\n",
    ),
    (
        "a handshake that is put off to the next turn is forgotten",
        "src/net/mod.rs",
        "            self.handshakes_wait = true;\n            socket.enlist(&mut self.ready);\n",
        "            self.handshakes_wait = true;\n",
    ),
    (
        "once a handshake was put off nobody is accepted who would begin one",
        "src/net/mod.rs",
        "        self.handshakes_wait = false;\n",
        "",
    ),
    (
        "a read is charged with what it brings, whatever it cost",
        "src/net/mod.rs",
        "saturating_sub(socket.read_cost_bytes(bytes));",
        "saturating_sub(bytes);",
    ),
    (
        "what a stream has decrypted and not brought yet is not asked for",
        "src/net/socket.rs",
        "bytes == buffer.len() || self.peer_finished || self.stream.holds_more();",
        "bytes == buffer.len() || self.peer_finished;",
    ),
    (
        "whoever waits for a slow subscriber is not let go on",
        "src/broker/pressure.rs",
        "            connection.woken = Some(obstacle);\n"
        "            self.actions.push_back(Action::Resume(key));\n",
        "            connection.woken = Some(obstacle);\n",
    ),
    (
        "of those who wait only the first is let go on",
        "src/broker/pressure.rs",
        "        let Some(obstacle) = connection.woken.take() else { return };\n"
        "        self.wake_parked(obstacle);\n",
        "        let Some(obstacle) = connection.woken.take() else { return };\n",
    ),
    (
        "a queue that drained stays congested",
        "src/broker/pressure.rs",
        "        if connection.congested.is_some() && connection.send.len() <= low_water_bytes {",
        "        if connection.congested.is_some() && connection.send.len() > low_water_bytes {",
    ),
    (
        "a slow reader goes on before those who waited for it",
        "src/broker/pressure.rs",
        "        self.timers.disarm(grace);\n",
        "        self.timers.disarm(grace);\n        self.actions.push_back(Action::Resume(key));\n",
    ),
    (
        "a closed connection stays subscribed",
        "src/broker/core.rs",
        "            self.remove_subscriber(channel, position);\n        }\n"
        "        if let Some(worker)",
        "            let _ = (channel, position);\n        }\n        if let Some(worker)",
    ),
    (
        "unsubscribing has no effect",
        "src/broker/subscriptions.rs",
        "        self.remove_subscriber(channel, position);\n"
        "        self.disown_unused(key, channel);\n",
        "",
    ),
    (
        "a moved subscriber is not told its new place",
        "src/broker/subscriptions.rs",
        "            session.subscriptions.insert(channel, position);\n        }\n"
        "        self.router.release(channel);",
        "            let _ = session;\n        }\n        self.router.release(channel);",
    ),
    (
        "a publication is delivered twice",
        "src/broker/subscriptions.rs",
        "            target.subscribers.push(key);\n",
        "            target.subscribers.push(key);\n            target.subscribers.push(key);\n",
    ),
    (
        "a publisher's second frame overtakes the one that is held back",
        "src/broker/mod.rs",
        "                    if self.dispatch(key, body) == Outcome::Held {\n"
        "                        return;\n                    }\n",
        "                    let _ = self.dispatch(key, body) == Outcome::Held;\n",
    ),
    (
        "an answer goes out with the worker's id instead of the requester's",
        "src/broker/workers.rs",
        "                timestamp,\n                reply_to: Some(text(&request.message_id)),",
        "                timestamp,\n                reply_to: Some(message_id),",
    ),
    (
        "any worker may answer any request",
        "src/broker/workers.rs",
        "matches!(pending.answerer, Answerer::Worker(worker, _) if worker == from);",
        "matches!(pending.answerer, Answerer::Worker(_, _));",
    ),
    (
        "nobody is told that a worker was lost",
        "src/broker/workers.rs",
        "        for request in worker.in_flight {\n            self.fail_request(request, &lost);\n",
        "        for request in worker.in_flight {\n            let _ = (request, &lost);\n",
    ),
    (
        "a worker that left is still asked",
        "src/broker/workers.rs",
        "            channel.workers.retain(|worker| *worker != key);\n",
        "",
    ),
    (
        "a request waits for its worker without end",
        "src/broker/core.rs",
        "            Due::Request(key) => self.expire_request(key),",
        "            Due::Request(_) => {}",
    ),
    (
        "a slow reader's grace never ends",
        "src/broker/pressure.rs",
        "        connection.congested = Some(self.timers.arm(deadline, Due::Grace(key)));",
        "        connection.congested = Some(self.timers.arm(deadline * 1_000, Due::Grace(key)));",
    ),
    (
        "the handshake's timer is not disarmed",
        "src/broker/system.rs",
        "        if let Some(timer) = connection.timer.take() {\n"
        "            self.timers.disarm(timer);\n        }\n"
        "        connection.timer = deadline",
        "        connection.timer = deadline",
    ),
    (
        "a connection is closed before its last words are sent",
        "src/broker/core.rs",
        "        self.leave(key, State::Closing);\n"
        "        let deadline = self.deadline_in(self.limits.slow_consumer_grace);",
        "        self.close_now(key);\n"
        "        let deadline = self.deadline_in(self.limits.slow_consumer_grace);",
    ),
    (
        "the older of two connections with one id is not told",
        "src/broker/core.rs",
        "            self.report(older, &taken_over());\n            return;\n",
        "            return;\n",
    ),
    (
        "a queue is not bounded",
        "src/broker/core.rs",
        "        if connection.send.len() + frame.len() > self.queue_bytes_max {",
        "        if connection.send.len() > self.queue_bytes_max * 8 {",
    ),
    (
        "the memory of a closed connection's queue is counted for good",
        "src/broker/core.rs",
        "        connection.send.release(&mut self.pool);\n",
        "",
    ),
    (
        "what is left of a turn's frames waits for the next bytes",
        "src/broker/mod.rs",
        "                    self.core.actions.push_back(Action::Resume(key));\n"
        "                    return;\n",
        "                    return;\n",
    ),
    (
        "who has nothing in flight is not closed by a drain",
        "src/net/mod.rs",
        "        if self.is_draining && !socket.is_readable() {",
        "        if self.is_draining && socket.is_readable() {",
    ),
    (
        "a drain reads nobody once more",
        "src/net/mod.rs",
        "                socket.note_readable(false);\n",
        "                let _ = socket;\n",
    ),
    (
        "a deferred answer is lost",
        "src/broker/workers.rs",
        "                    self.deliver_answer(&request, \"\", \"\", payload.as_str());",
        "                    let _ = (&request, payload.as_str());",
    ),
    (
        "a panicking handler leaves its request unanswered",
        "src/broker/handlers.rs",
        "    if core.dealt == Dealt::Not {\n        let text",
        "    if core.dealt == Dealt::Not && !failure.contains(\"panicked\") {\n        let text",
    ),
    (
        "a wake-up from another thread is missed while the mailbox is looked at",
        "src/broker/mailbox.rs",
        "        self.remote.woken.store(false, Ordering::Release);",
        "        let _ = &self.remote.woken;",
    ),
]


def sources():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def copy_tree():
    """Leaves the time stamps of what has not changed, so that little is built again."""
    wanted = sources()
    for name in wanted:
        source, target = ROOT / name, COPY / name
        if not target.is_file() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    for path in COPY.rglob("*.rs"):
        if str(path.relative_to(COPY)) not in wanted:
            path.unlink()


def run(command):
    environment = dict(os.environ, CARGO_TARGET_DIR=str(COPY.parent / "target"))
    return subprocess.run(command, cwd=COPY, env=environment, capture_output=True, text=True)


def try_mutant(file, before, after):
    """Returns what the simulation made of it, and whether it noticed."""
    original = (ROOT / file).read_text()
    if original.count(before) != 1:
        return f"stands {original.count(before)} times in {file}, and not once", False
    (COPY / file).write_text(original.replace(before, after))
    try:
        build = run(["cargo", "build", "--quiet", "--features", "simulation", "--example", "simulate"])
        if build.returncode != 0:
            return "does not compile:\n" + build.stderr, False
        binary = COPY.parent / "target" / "debug" / "examples" / "simulate"
        result = run([binary, "--from", "0", "--seeds", str(SEEDS_MAX)])
    finally:
        (COPY / file).write_text(original)
    failed = re.search(r"^seed (\d+) fails: (.{0,90})", result.stdout, re.MULTILINE)
    if failed is None:
        return f"survives {SEEDS_MAX} seeds", False
    return f"{int(failed[1]) + 1} | {failed[2]}", True


def main(words):
    copy_tree()
    survivors = 0
    for name, file, before, after in MUTANTS:
        if words and not any(word in name for word in words):
            continue
        said, is_noticed = try_mutant(file, before, after)
        survivors += not is_noticed
        print(f"| {name} | {said} |", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
