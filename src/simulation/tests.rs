use std::time::Duration;

use super::kernel::{BURST, Stop};
use super::speech::Say;
use super::*;

/// Seeds that the tests go through with the debug assertions on, which takes some ten seconds. `tests/run`
/// goes through 70,000 in a release build, and there every branch has to be taken.
const SEEDS: u64 = 400;

/// Seeds that once found a fault, and the fault that they found. A change of the simulation gives
/// a seed another meaning, so each fault also has a test beside the code that was wrong.
const KEPT_SEEDS: [(u64, &str); 6] = [
    (
        160_072_539_904_521,
        "a superseded connection whose answer its stream still kept was closed to make room",
    ),
    (
        500_361_688,
        "the model expected more of a connection that was silent for its time, was read in vain, and \
         spoke while the timers still waited for other connections",
    ),
    (49, "a publication that waited for the filter counted as two deliveries"),
    (38, "a publication that waited for the filter lost its place in the history"),
    (37_694, "a queue that one conflated publication filled took nothing else"),
    (54_239, "the model did not know of what waits behind a replay"),
];

#[test]
fn no_promise_is_broken() {
    let mut frames = 0;
    for seed in 0..SEEDS {
        let outcome = run_seed(seed, false);
        assert_eq!(
            outcome.violation, None,
            "seed {seed}; replay it with: cargo simulate --seed {seed}"
        );
        frames += outcome.frames;
    }
    // A simulation in which nothing happens finds nothing.
    assert!(frames > SEEDS * 20, "{frames}");
}

#[test]
fn seeds_that_found_a_fault_find_it_no_more() {
    for (seed, fault) in KEPT_SEEDS {
        assert_eq!(run_seed(seed, false).violation, None, "seed {seed}, which found: {fault}");
    }
}

#[test]
fn a_seed_makes_the_same_run_again_whether_it_is_recorded_or_not() {
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let first = run_seed(seed, false);
        let again = run_seed(seed, true);
        assert_eq!(first.hash, again.hash, "seed {seed}");
        assert!(first.trace.is_empty() && !again.trace.is_empty());
        hashes.insert(first.hash);
    }
    assert_eq!(hashes.len(), 50, "each is a run of its own");
}

#[test]
fn whatever_bytes_decide_no_promise_is_broken() {
    for seed in 0..200_u64 {
        let bytes: Vec<u8> = (0..seed * 7).map(|at| (at * at * 31 + seed * 17) as u8).collect();
        assert_eq!(run_bytes(&bytes, false).violation, None, "{bytes:?}");
    }
}

/// The server is stopped for longer than its requests may take. Answers come meanwhile, from a worker
/// and from another thread. Signals that interrupt its reads make no answer late.
#[test]
fn answers_that_came_while_the_server_was_stopped_are_in_time() {
    for (keeps_events, interruptions) in [(false, 0), (true, 0), (false, BURST), (true, BURST)] {
        // Nothing happens by chance.
        let kernel = Kernel::new(Decisions::given(&[]), Trace::new(false), 2);
        let mut world = World::new(kernel).unwrap();
        // Every second one is of the same application.
        let (worker, asks) = (0, 2);
        (0..3).for_each(|_| world.connect());
        while world.move_everything().unwrap() {}
        world.say(worker, Say::Serve);
        while world.move_everything().unwrap() {}
        for say in [Say::Work, Say::Later] {
            world.say(asks, say);
            world.hand_over(asks);
        }
        world.arrive_bytes(asks, usize::MAX);
        world.turn().unwrap();
        world.receive_bytes(worker, usize::MAX).unwrap();
        assert_eq!(world.peers[worker].tasks.len(), 1);

        world.answer_task(worker);
        world.hand_over(worker);
        world.answer_deferred();
        let time = Duration::from_secs(31);
        world.kernel.borrow_mut().stop = Some(Stop { time, keeps_events });
        let pipe = world.peers[worker].pipe;
        world.kernel.borrow_mut().pipes[pipe].interruptions = interruptions;
        (0..4).for_each(|_| world.turn().unwrap());
        while world.move_everything().unwrap() {}
        world.model.check_answered().unwrap();
        let errors = world.server.stats().counters.errors;
        assert_eq!(errors.get("timeout"), None, "{keeps_events}, {interruptions}");
    }
}

/// Timers are due while not all sockets could be read: those that were in the list by then are waited
/// for. A connection that has been read in vain and speaks meanwhile is late, and is closed unread.
#[test]
fn who_speaks_while_timers_wait_for_others_is_late() {
    let mut world = World::new(Kernel::new(Decisions::given(&[]), Trace::new(false), 2)).unwrap();
    let (silent, busy) = (0, 2);
    (0..3).for_each(|_| world.connect());
    while world.move_everything().unwrap() {}
    let idle_timeout = Some(Duration::from_secs(60));
    world.scenario.limits.idle_timeout = idle_timeout;
    world.limits.idle_timeout = idle_timeout;
    world.server.reload(world.limits.clone(), world.scenario.access(0));
    while world.move_everything().unwrap() {}

    // More than one turn reads, where a turn takes one step.
    world.scenario.steps_max = Some(1);
    (0..30).for_each(|_| world.say(busy, Say::Ping));
    while world.hand_over(busy) {}
    world.arrive_bytes(busy, usize::MAX);
    {
        let mut kernel = world.kernel.borrow_mut();
        kernel.stop = Some(Stop { time: Duration::from_secs(70), keeps_events: true });
        // The silent connection is said to have something.
        kernel.faults.spurious = 1_000;
    }
    world.turn().unwrap();
    world.kernel.borrow_mut().faults.spurious = 0;
    world.say(silent, Say::Ping);
    world.hand_over(silent);
    world.arrive_bytes(silent, usize::MAX);
    for _ in 0..10 {
        world.turn().unwrap();
    }
    assert!(world.server.stats().counters.idle_closed > 0);
    assert!(world.kernel.borrow().pipes[world.peers[silent].pipe].server_closed);
}
