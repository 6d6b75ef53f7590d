#!/usr/bin/env python3
"""Breaks the server on purpose, one thing at a time, and checks that the simulation notices.

    python3 tests/mutants.py                  all of them
    python3 tests/mutants.py ready worker     those with one of these words in their names
    python3 tests/mutants.py --find           only finds their places, and builds nothing

A place is named by its function and by a few words of code in it. The file does not matter, nor do
line breaks and comments, so that code can move. A mutant whose place is not found, or found twice,
fails the run: its entry below has to be changed then.

Each mutant is built in a copy of the repository under target/mutants, and its simulation runs from
seed 0 until a promise is broken, while the next one is built. A mutant that survives SEEDS_MAX seeds
fails the run.
"""

import concurrent.futures
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
COPY = ROOT / "target" / "mutants" / "tree"
BUILT = COPY.parent / "target" / "debug" / "examples" / "simulate"
SEEDS_MAX = 20_000
# The simulation judges these directories. Mutants of the simulation itself would prove nothing.
JUDGED = ("src/broker/", "src/net/", "src/proto/")


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One of `drop`, `twice` and `swap` is given: code that stands once in the function, or once
    behind `after`. The whole statement that holds it is left out or repeated, or the code itself is
    replaced by `by`."""

    name: str
    function: str
    drop: str = ""
    twice: str = ""
    swap: str = ""
    by: str = ""
    after: str = ""


MUTANTS = [
    Mutant("a ready-list entry is dropped when the read budget is used up",
           "serve", drop="socket.enlist(", after="if budget_bytes == 0"),
    Mutant("events that a turn does not take are left to a report that never comes",
           "has_work", swap="|| self.has_more_events", by=""),
    Mutant("a resumed connection is not put into the ready list",
           "act", drop="socket.enlist(", after="note_resumed()"),
    Mutant("actions that a budget leaves to the next turn are not carried out before it takes in more",
           "work", swap="if self.is_behind { self.act(broker, meter); }", by="self.is_behind = false;"),
    Mutant("connections that a budget leaves to the next turn are forgotten",
           "serve_ready", drop="ready.append("),
    Mutant("a key is found whatever its generation",
           "get", swap="(entry.generation == key.generation()).then_some(&entry.value)", by="Some(&entry.value)"),
    Mutant("a worker's late answer is taken for that to a later request",
           "find", swap=".filter(|(_, request)| request.id == id)", by=""),
    Mutant("the end of a short write is never sent",
           "flush", swap="want_writable(true", by="want_writable(false", after="if is_blocked"),
    Mutant("who says no more is closed while its stream still keeps an answer",
           "hang_up", swap="|| connection.transport_holds", by=""),
    Mutant("what a stream keeps counts as sent when the last words are said",
           "flush", swap="&& !written.holds", by=""),
    Mutant("a short write counts as whole",
           "flush", swap="Written { bytes, holds }", by="Written { bytes: if bytes > 0 { wanted } else { 0 }, holds }"),
    Mutant("what a stream keeps to itself is not sent",
           "flush", swap="!stream.flush()?", by="!stream.flush().map(|_| true)?"),
    Mutant("an interrupted read ends the connection",
           "receive", swap="error.kind() == io::ErrorKind::Interrupted", by="false"),
    Mutant("an interrupted read does not count as unread",
           "serve", drop="self.has_unread |="),
    Mutant("a full read buffer counts as an empty socket",
           "receive", swap="bytes == buffer.len() ||", by=""),
    Mutant("the end behind the last bytes is not looked for",
           "receive", swap="|| self.peer_finished", by="", after="bytes == buffer.len()"),
    Mutant("what a stream has decrypted and not brought yet is not asked for",
           "receive", swap="|| self.stream.holds_more()", by=""),
    Mutant("a listener is forgotten after as many accepts as a turn takes",
           "accept", swap="=> Accepted::Stream(stream, peer)",
           by="=> { watched.ready = false; Accepted::Stream(stream, peer) }"),
    Mutant("accepting stops for good once there are no descriptors",
           "shed", swap="each.retry_at = Some(now + RETRY_AFTER)", by="{ each.ready = false; let _ = now; }"),
    Mutant("listeners do not take turns",
           "accept", drop="self.next = at + 1"),
    Mutant("an accept error of one listener puts off the others",
           "accept", swap="watched.retry_at = Some(now + RETRY_AFTER)",
           by="self.open.iter_mut().for_each(|each| each.retry_at = Some(now + RETRY_AFTER))"),
    Mutant("a handshake that is put off to the next turn is forgotten",
           "serve", drop="socket.enlist(", after="self.handshakes_wait = true"),
    Mutant("once a handshake was put off nobody is accepted who would begin one",
           "work", drop="self.handshakes_wait = false"),
    Mutant("a read is charged with what it brings, whatever it cost",
           "serve", swap="socket.read_cost_bytes(bytes)", by="bytes"),
    Mutant("whoever waits for a slow subscriber is not let go on",
           "wake_first", drop="Action::Resume("),
    Mutant("of those who wait only the first is let go on",
           "pass_on_wake", drop="wake_first(core, obstacle)"),
    Mutant("a queue that drained stays congested",
           "note_sent", swap="<= connection", by="> connection", after="connection.congested.is_some()"),
    Mutant("a slow reader goes on before those who waited for it",
           "uncongest", swap="core.timers.disarm(grace);",
           by="core.timers.disarm(grace); core.agenda.actions.push_back(Action::Resume(key));"),
    Mutant("a closed connection stays subscribed",
           "leave", swap="subscriptions::remove(core, channel, seat)", by="let _ = (channel, seat)"),
    Mutant("unsubscribing has no effect",
           "drop_one", swap="""remove(core, channel, seat);
           if !seat.is_live() { conflation::note_unsubscribed(core, key); }
           channels::disown_unused(core, key, channel);""", by="let _ = seat;"),
    Mutant("a moved subscriber is not told its new place",
           "remove", swap="session.subscriptions.insert(channel, seat)", by="let _ = session"),
    Mutant("a publication is delivered twice",
           "add_to", twice="subscribers.push(key)"),
    Mutant("a publisher's second frame overtakes the one that is held back",
           "process",
           swap="if dispatch::dispatch(core, &mut self.handlers, key, extensions, body, run)"
                " == Outcome::Held { return; }",
           by="dispatch::dispatch(core, &mut self.handlers, key, extensions, body, run);"),
    Mutant("an answer goes out with the worker's id instead of the requester's",
           "deliver", swap="reply_to: Some(request.message_id())", by="reply_to: Some(message_id)"),
    Mutant("any worker may answer any request",
           "is_with", swap="Answerer::Worker(answerer, _) if answerer == worker", by="Answerer::Worker(_, _)"),
    Mutant("nobody is told that a worker was lost",
           "retire", drop="requests::fail(core, request, &lost, None)", after="for request in worker.in_flight"),
    Mutant("a worker that left is still asked",
           "remove_worker", drop="workers.retain("),
    Mutant("a request waits for its worker without end",
           "expire", swap="fail(core, key, &why, Some(CancelReason::Deadline))",
           by="{ abandon(core, key); let _ = why; }"),
    Mutant("a slow reader's grace never ends",
           "congest", swap="arm(deadline,", by="arm(deadline * 1_000,"),
    Mutant("the handshake's timer is not disarmed",
           "open", swap="core.timers.reset(&mut connection.timer, idle)",
           by="connection.timer = idle.map(|(deadline, due)| core.timers.arm(deadline, due))"),
    Mutant("a connection is closed before its last words are sent",
           "begin", swap="leave(core, key, State::Closing)", by="close_now(core, key)"),
    Mutant("the older of two connections with one id is not told",
           "supersede", drop="report(core, older, &refusal::taken_over())"),
    Mutant("a queue is not bounded",
           "put", swap="connection.send.len() + frame.len() > queue_bytes_max",
           by="connection.send.len() > queue_bytes_max * 8"),
    Mutant("the memory of a closed connection's queue is counted for good",
           "close_now", drop="connection.send.release("),
    Mutant("what is left of a turn's frames waits for the next bytes",
           "process", drop="Action::Resume(key)"),
    Mutant("who has nothing in flight is not closed by a drain",
           "serve", swap="self.is_draining && !socket.is_readable()", by="self.is_draining && socket.is_readable()"),
    Mutant("a drain reads nobody once more",
           "begin_drain", drop="note_readable()"),
    Mutant("a deferred answer is lost",
           "answer_deferred", swap="deliver(core, key, None, payload.as_str())", by="drop(payload)"),
    Mutant("a panicking handler leaves its request unanswered",
           "call", after="note_panic(core",
           swap="dealt == Dealt::Not", by="dealt == Dealt::Not && !failure.contains(\"panicked\")"),
    Mutant("a wake-up from another thread is missed while the mailbox is looked at",
           "acknowledge", drop="woken.swap(false"),
    Mutant("a drain closes who has messages that are not processed",
           "close_if_idle", swap="|| !connection.may_proceed() || has_frame", by=""),
    Mutant("what is behind as many slices as one write has is never sent",
           "flush", swap="if flushed.unsent_bytes == 0", by="if flushed.unsent_bytes < usize::MAX"),
    Mutant("a slow reader whose queue drains before it is read goes on before those who waited for it",
           "serve", swap="was_held_back && broker.wants_read(key)", by="was_held_back && false"),
    Mutant("a request that is too large to be forwarded stays pending",
           "check_length", drop="requests::end(core, request)"),
    Mutant("a message that is too large for its worker is forwarded",
           "check_length", swap="frame.len() <= HEADER_BYTES + core.limits.frame_bytes_max", by="true"),
    Mutant("a new worker lets nobody go on who waits for one",
           "serve", drop="queues::wake_first("),
    Mutant("a worker gets one request more at a time than it takes",
           "has_room", swap="self.in_flight < most.get()", by="self.in_flight <= most.get()"),
    Mutant("a worker that got room is not handed what is kept",
           "invite", swap="resume(core, worker)", by="let _ = worker"),
    Mutant("an answer hands out nothing of what is kept",
           "take_answer", swap="hand_out::first(core, channel, from)", by="let _ = channel"),
    Mutant("equal workers take no turns",
           "least_loaded", drop="*next = at + 1"),
    Mutant("what a turn leaves in the mailbox waits for the next wake-up",
           "run_mailbox", swap="Progress { steps: steps_max, has_more: true }",
           by="Progress { steps: steps_max, has_more: false }"),
    Mutant("who waits for a slow reader and leaves is not read again",
           "unpark", drop="Action::Resume(key)"),
    Mutant("who waits for much work waits for good",
           "resume_waiting", swap="[Lane::Light, Lane::Heavy]", by="[Lane::Light]"),
    Mutant("one connection more than allowed is let in",
           "make_room", swap="core.connections.present() < core.limits",
           by="core.connections.present() <= core.limits"),
    Mutant("the memory of a subscription is counted for good",
           "remove", drop="core.budget.tables_bytes -= SUBSCRIPTION_BYTES", after="channels.get_mut(channel)"),
    Mutant("an idle connection is never closed",
           "check_idle", swap="deadline > core.turn.judged", by="deadline > Duration::ZERO"),
    Mutant("publications are measured as requests",
           "record", swap="record(Measure::Publication", by="record(Measure::Request"),
    Mutant("a reload does not change the tokens",
           "reconfigure", drop="core.access = access"),
    Mutant("who came last to wait for work is served first",
           "charge_or_wait", swap="queue.waiting.push_back(key, work)", by="queue.waiting.push_front(key, work)"),
    Mutant("the timer of a grace that is over runs on",
           "uncongest", drop="core.timers.disarm(grace)"),
    Mutant("a request that is too large counts against its worker",
           "check_length", swap="self.request.and_then(|request| requests::end(core, request));",
           by="""self.request.and_then(|request| requests::end(core, request));
           if let Some(worker) = self.worker && let Some(session) = core.connections.session_mut(worker)
           && let Some(worker) = &mut session.worker {
           worker.silent_since.get_or_insert(core.turn.now.monotonic); }"""),
    Mutant("a part more than there is credit for is passed on",
           "take_part", swap="if self.is_stalled()", by="if self.unused + 1 <= self.owed"),
    Mutant("a part out of order is passed on",
           "take_part", drop="self.check_order(seq)?"),
    Mutant("a part gives a stream no time for the next one",
           "take_part", drop="self.active_at = now"),
    Mutant("the end of a stream needs credit",
           "take", swap="if stream.check_order(seq).is_err()", by="if stream.take_part(seq, now).is_err()"),
    Mutant("the end of a stream may have any number",
           "take", swap="if stream.check_order(seq).is_err()", by="if false"),
    Mutant("the end of a stream may have a payload",
           "take", swap='if response.payload_str() != "null"', by="if false"),
    Mutant("a request whose worker breaks the rules stays open",
           "violate", drop="requests::fail(core, key, why"),
    Mutant("a worker is not told that its request is over",
           "end_unanswered", drop="cancels::tell("),
    Mutant("a worker is told twice that its request is over",
           "end_unanswered", twice="cancels::tell("),
    Mutant("a worker is told of a request that it has answered",
           "relay", swap="end(core, key)", by="end_unanswered(core, key, Some(CancelReason::Gone))"),
    Mutant("a worker is told a wrong reason",
           "expire_by_ttl", swap="CancelReason::Deadline", by="CancelReason::Caller"),
    Mutant("a peer of the base protocol is told that its request is over",
           "tell", swap="!calls::has(core, worker, Extensions::CALL)", by="false"),
    Mutant("a worker of the base protocol gets a meta",
           "with_meta", swap="let to = forward.receiver(core);", by="let to = Receiver::of_all(core);"),
    Mutant("a worker of the base protocol gets the meta of what was kept",
           "send_kept", swap="to.extensions.is_empty()", by="false"),
    Mutant("a requester of the base protocol gets a meta",
           "takes_meta_of", swap="response.meta_str().is_none() ||", by="true ||"),
    Mutant("a subscriber of the base protocol gets a meta",
           "in_form_for", swap="to.extensions.is_empty()", by="false"),
    Mutant("a deadline comes late",
           "attach", swap="core.timers.arm(until,", by="core.timers.arm(until * 2,"),
    Mutant("the timer of a deadline is not disarmed",
           "forget", drop="core.timers.disarm(ttl.timer)"),
    Mutant("the memory of extras is counted for good",
           "forget", drop="core.budget.tables_bytes -= CALL_BYTES"),
    Mutant("a request goes to another worker after a part",
           "push_part", drop="calls::take_retry(core, key)"),
    Mutant("a request goes to another worker again and again",
           "retry", swap="calls::send_kept(core, key, worker, frame)",
           by="calls::keep_for_retry(core, key, &frame); calls::send_kept(core, key, worker, frame)"),
    Mutant("a request goes to another worker although it is not idempotent",
           "keep_for_retry", swap="if call.idempotent &&", by="if"),
    Mutant("credit is passed on twice",
           "pass_credit", twice="notify("),
    Mutant("a worker that reads again is not told what it is owed",
           "wake_all_behind", drop="kept::invite_owed("),
    Mutant("every user is admitted",
           "admit", swap="core.access.asks_for_users()", by="false"),
    Mutant("a handler cannot close a connection",
           "close_connection", drop="closing::begin("),
    Mutant("a request that names an answer is relayed with its meta as it came",
           "around_message_id_before_meta", swap="if answers_nothing", by="if true"),
]


class NoPlace(Exception):
    """The code has changed, so the entry has to be changed, too."""


def sources():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


COMMENT_OR_LITERAL = re.compile(r"""//[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])'""", re.DOTALL)


def blank(text, literals):
    """Returns the text with spaces in place of comments, and of literals if wanted. Offsets stay the same."""
    def spaces(found):
        is_kept = not literals and not found[0].startswith("//")
        return found[0] if is_kept else re.sub(r"[^\n]", " ", found[0])
    return COMMENT_OR_LITERAL.sub(spaces, text)


def pattern_of(code):
    """Finds the same code, however it is broken into lines."""
    return re.compile(r"\s*".join(map(re.escape, re.findall(r"\w+|[^\w\s]", code))))


def depth_of(char):
    return (char in "{([") - (char in "})]")


def bodies(brackets, function):
    """Returns where the bodies of the functions with this name begin and end."""
    for found in re.finditer(rf"\bfn\s+{function}\b(?:\[(?:\[[^\]]*\]|[^\[\]])*\]|[^;{{\[])*{{", brackets):
        end, depth = found.end(), 1
        while depth:
            depth += depth_of(brackets[end])
            end += 1
        yield found.end(), end


def statement(brackets, at):
    """Returns where the statement around `at` begins and ends."""
    begin, depth = at, 0
    while depth or brackets[begin - 1] not in "{;}":
        begin -= 1
        depth = max(0, depth - depth_of(brackets[begin]))
    end, depth = at, 0
    while depth or brackets[end] not in ";}":
        depth = max(0, depth + depth_of(brackets[end]))
        end += 1
    return begin, end + (brackets[end] == ";")


def mutations(mutant):
    """Returns the files that contain the place, each with its text and its new text."""
    wanted = pattern_of(mutant.drop or mutant.twice or mutant.swap)
    for name in sources():
        if not name.startswith(JUDGED) or not name.endswith(".rs") or "/tests" in name:
            continue
        text = (ROOT / name).read_text()
        code, brackets = blank(text, literals=False), blank(text, literals=True)
        for begin, body_end in bodies(brackets, mutant.function):
            behind = pattern_of(mutant.after).search(code, begin, body_end)
            found = list(wanted.finditer(code, behind.end(), body_end)) if behind else []
            for match in found[:1] if mutant.after else found:
                begin, end = match.span() if mutant.swap else statement(brackets, match.start())
                instead = text[begin:end] * 2 if mutant.twice else mutant.by
                yield name, text, text[:begin] + instead + text[end:]


def mutate(mutant):
    found = list(mutations(mutant))
    if len(found) != 1:
        where = ", ".join(name for name, *_ in found) or "nowhere"
        raise NoPlace(f"should be found in one place of a function {mutant.function}, and is found {where}")
    return found[0]


def copy_tree():
    """Keeps the time stamps of unchanged files, so that little has to be built again."""
    wanted = sources()
    for name in wanted:
        source, target = ROOT / name, COPY / name
        if not target.is_file() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    for path in COPY.rglob("*.rs"):
        if str(path.relative_to(COPY)) not in wanted:
            path.unlink()


def build(mutant, binary):
    """Builds the simulation with the mutant in it."""
    name, text, mutated = mutate(mutant)
    (COPY / name).write_text(mutated)
    environment = dict(os.environ, CARGO_TARGET_DIR=str(COPY.parent / "target"))
    command = ["cargo", "build", "--quiet", "--features", "simulation", "--example", "simulate"]
    try:
        built = subprocess.run(command, cwd=COPY, env=environment, capture_output=True, text=True)
    finally:
        (COPY / name).write_text(text)
    if built.returncode != 0:
        raise NoPlace("does not compile:\n" + built.stderr)
    shutil.copy(BUILT, binary)


def judge(mutant, binary):
    """Returns whether the simulation notices the mutant. Prints the seed and the violation."""
    # One thread, so that the first seed that fails is the lowest.
    command = [binary, "--from", "0", "--seeds", str(SEEDS_MAX), "--threads", "1"]
    result = subprocess.run(command, capture_output=True, text=True)
    binary.unlink()
    failed = re.search(r"^seed (\d+) fails: (.{0,90})", result.stdout, re.MULTILINE)
    said = f"{int(failed[1]) + 1} | {failed[2]}" if failed else f"survives {SEEDS_MAX} seeds"
    print(f"| {mutant.name} | {said} |", flush=True)
    return failed is not None


def main(words):
    builds = "--find" not in words
    words = [word for word in words if word != "--find"]
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    judged = []
    if builds:
        copy_tree()
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        for number, mutant in enumerate(chosen):
            binary = COPY.parent / f"simulate-{number}"
            try:
                if builds:
                    build(mutant, binary)
                    judged.append(pool.submit(judge, mutant, binary))
                else:
                    mutate(mutant)
                    judged.append(None)
            except NoPlace as why:
                print(f"| {mutant.name} | {why} |", flush=True)
    caught = sum(each is None or each.result() for each in judged)
    print(f"{caught} of {len(chosen)} are {'caught' if builds else 'found'}")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
