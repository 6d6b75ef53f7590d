//! The goals, as data, and the verdicts on them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::figures::{Figure, Series, Summary};

/// One entrant of one scenario.
#[derive(Clone, Copy, Debug)]
struct Of(&'static str, &'static str);

/// The range that a figure or a ratio has to lie in.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
    Below(f64),
    Above(f64),
}

/// A figure, or the ratio of two, and the range that it has to lie in.
#[derive(Clone, Copy, Debug)]
struct Goal {
    work: &'static str,
    what: &'static str,
    figure: Figure,
    of: Of,
    over: Option<Of>,
    bound: Bound,
}

/// The result for one goal.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Standing {
    Reached,
    Missed,
    NotMeasured,
}

/// A goal with its result.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Verdict {
    pub(crate) work: String,
    pub(crate) what: String,
    pub(crate) bound: String,
    pub(crate) found: Option<Summary>,
    pub(crate) standing: Standing,
    /// The distance by which the goal is missed, or the reason why it was not measured.
    pub(crate) remark: String,
    /// The entrants without the figure, as `scenario/entrant`.
    pub(crate) missing: Vec<String>,
}

const ONE: &str = "request/response, 1 client, both sides blocking";
const SPINNING: &str = "the same, both sides spinning";
const SERVER_SPINS: &str = "a server with --spin against blocking clients";
const HUNDRED: &str = "request/response, 100 clients closed loop";
const OPEN: &str = "open loop, 100 clients, half of the peak rate";
const FAN_ONE: &str = "fan-out to 100, one at a time";
const FAN_HUNDRED: &str = "fan-out to 100, 100 in flight";
const HUNDRED_KB: &str = "100 KB payloads";
const MEGABYTE: &str = "1 MB payloads";
const IDLE: &str = "10,000 idle connections and 10,000 channels beside the one client";
const PYTHON: &str = "unmodified Python client, callback";
const HANDLER: &str = "an echo handler in Python";
const CLIENTS: &str = "the Python client beside others";
const STREAMS: &str = "100 streams side by side from one Python worker to Node";
const LEAVING: &str = "a requester that leaves in the middle of a stream";
const ATTACHED: &str = "1 MB as an attachment";
const ATTACHED_FAN: &str = "1 MB as an attachment, fan-out to 100";
const TENSOR: &str = "a tensor of 602,112 bytes from Node to a handler in Python and back";
const ATTACHED_PYTHON: &str = "1 MB of bytes in Python";
const PATTERNS: &str = "a channel that 10 of 10,000 patterns match, 100 in flight";
const HISTORY: &str = "100 clients that read a history of 1,000 messages at once";
const BRIDGE: &str = "from one server over NATS to another one";
const APART: &str = "with NATS, a channel that is not shared";
const STEADY: &str = "steady state";

const fn ratio(
    work: &'static str,
    what: &'static str,
    figure: Figure,
    of: Of,
    over: Of,
    bound: Bound,
) -> Goal {
    Goal { work, what, figure, of, over: Some(over), bound }
}

const fn value(
    work: &'static str,
    what: &'static str,
    figure: Figure,
    of: Of,
    bound: Bound,
) -> Goal {
    Goal { work, what, figure, of, over: None, bound }
}

/// One call per request, counted over many requests. The rest is for a stray call of a timer.
const ONE_CALL: Bound = Bound::AtMost(1.005);
const NO_CALL: Bound = Bound::AtMost(0.005);

#[rustfmt::skip]
const GOALS: &[Goal] = {
    use Bound::{Above, AtLeast, AtMost, Below};
    use Figure::{
        BytesPerIdleConnection, ImportMegabytes, ImportMs, MegabytesPerSecond,
        OtherSyscallsPerRequest, P50Us, P99Us, PerSecond, PollsPerRequest, PythonCpuUs,
        ReadsPerRequest, RoundTripsToKnow, ServerCpuUs, WritesPerRequest,
    };
    const fn one(name: &'static str) -> Of { Of("one-client", name) }
    const fn spin(name: &'static str) -> Of { Of("one-client-spinning", name) }
    const fn spins(name: &'static str) -> Of { Of("server-spins", name) }
    const fn hundred(name: &'static str) -> Of { Of("hundred-clients", name) }
    const fn open(name: &'static str) -> Of { Of("open-loop", name) }
    const fn fan_one(name: &'static str) -> Of { Of("fan-out-one", name) }
    const fn fan_hundred(name: &'static str) -> Of { Of("fan-out-hundred", name) }
    const fn hundred_kb(name: &'static str) -> Of { Of("hundred-kb", name) }
    const fn megabyte(name: &'static str) -> Of { Of("megabyte", name) }
    const fn blocking(name: &'static str) -> Of { Of("clients-blocking", name) }
    const fn worker(name: &'static str) -> Of { Of("clients-worker", name) }
    const fn publish(name: &'static str) -> Of { Of("clients-publish", name) }
    const fn import(name: &'static str) -> Of { Of("clients-import", name) }
    const fn parts(name: &'static str) -> Of { Of("streams-parts", name) }
    const fn attached(name: &'static str) -> Of { Of("binary-megabyte", name) }
    const fn attached_fan(name: &'static str) -> Of { Of("binary-fan-out", name) }
    const fn tensor(name: &'static str) -> Of { Of("binary-node-python", name) }
    const fn bytes(name: &'static str) -> Of { Of("binary-python", name) }
    const fn patterns(name: &'static str) -> Of { Of("topics-patterns", name) }
    const fn history(name: &'static str) -> Of { Of("topics-history", name) }
    const CALLS_ONE: Of = Of("syscalls-one-client", "ipc");
    const CALLS: Of = Of("syscalls-hundred-clients", "ipc");
    &[
        ratio(ONE, "server CPU to the bare echo", ServerCpuUs, one("ipc"), one("bare"),
            AtMost(1.06)),
        ratio(ONE, "p50 to the bare echo", P50Us, one("ipc"), one("bare"), AtMost(1.04)),
        ratio(ONE, "p99 to the bare echo", P99Us, one("ipc"), one("bare"), AtMost(1.10)),
        ratio(SPINNING, "p50 to the bare spinning echo", P50Us, spin("ipc"), spin("bare"),
            AtMost(1.25)),
        ratio(SPINNING, "p50 of the Unix socket to TCP", P50Us, spin("ipc-unix"), spin("ipc"),
            Below(0.8)),
        ratio(SERVER_SPINS, "p50 to Redis", P50Us, spins("ipc-spin"), spins("redis"), Below(0.6)),
        ratio(HUNDRED, "server CPU to the bare echo", ServerCpuUs, hundred("ipc"),
            hundred("bare"), AtMost(1.06)),
        ratio(HUNDRED, "throughput to the bare echo", PerSecond, hundred("ipc"), hundred("bare"),
            AtLeast(0.97)),
        ratio(HUNDRED, "throughput to Redis", PerSecond, hundred("ipc"), hundred("redis"),
            AtLeast(1.0)),
        ratio(OPEN, "p99 to Redis", P99Us, open("ipc"), open("redis"), AtMost(1.0)),
        ratio(FAN_ONE, "deliveries to the bare loop", PerSecond, fan_one("ipc"), fan_one("bare"),
            AtLeast(0.9)),
        ratio(FAN_ONE, "deliveries to Redis", PerSecond, fan_one("ipc"), fan_one("redis"),
            AtLeast(1.0)),
        ratio(FAN_ONE, "server CPU to Redis", ServerCpuUs, fan_one("ipc"), fan_one("redis"),
            AtMost(1.12)),
        ratio(FAN_ONE, "p99 to Redis", P99Us, fan_one("ipc"), fan_one("redis"), Below(1.0)),
        ratio(FAN_HUNDRED, "deliveries to Redis", PerSecond, fan_hundred("ipc"),
            fan_hundred("redis"), AtLeast(1.4)),
        ratio(FAN_HUNDRED, "deliveries to NATS", PerSecond, fan_hundred("ipc"),
            fan_hundred("nats"), Above(1.0)),
        ratio(HUNDRED_KB, "p50 to an echo that keeps whole messages", P50Us, hundred_kb("ipc"),
            hundred_kb("bare-frames"), AtMost(1.1)),
        ratio(MEGABYTE, "bandwidth to the bare echo", MegabytesPerSecond, megabyte("ipc"),
            megabyte("bare"), AtLeast(0.9)),
        ratio(IDLE, "p50 to having none", P50Us, Of("idle", "ipc-idle"), Of("idle", "ipc"),
            AtMost(1.1)),
        value(IDLE, "bytes of memory per idle connection", BytesPerIdleConnection,
            Of("idle", "ipc-idle"), Below(1024.0)),
        value(PYTHON, "p50, µs", P50Us, Of("published-client", "ipc"), Below(300.0)),
        value(HANDLER, "p50, µs", P50Us, Of("python-handler", "python"), Below(150.0)),
        ratio(HANDLER, "throughput of 100 clients to the published server", PerSecond,
            Of("python-handler-hundred", "python"), Of("python-handler-hundred", "published"),
            AtLeast(20.0)),
        ratio(HANDLER, "fan-out beside it to the server alone", PerSecond,
            Of("python-fan-out", "python"), Of("python-fan-out", "ipc"), AtLeast(0.9)),
        ratio(CLIENTS, "blocking, p50 to frames written by hand, TCP", P50Us, blocking("client"),
            blocking("frames"), AtMost(1.1)),
        ratio(CLIENTS, "blocking, p50 to frames written by hand, Unix socket", P50Us,
            blocking("client-unix"), blocking("frames-unix"), AtMost(1.1)),
        ratio(CLIENTS, "1 MB of text, p50 to pyzmq with json", P50Us,
            Of("clients-megabyte", "client"), Of("clients-megabyte", "pyzmq"), AtMost(1.2)),
        ratio(CLIENTS, "asyncio, 64 in flight, CPU to bare streams", PythonCpuUs,
            Of("clients-aio", "client"), Of("clients-aio", "streams"), AtMost(1.5)),
        ratio(CLIENTS, "worker, 64 in flight, CPU to nats-py", PythonCpuUs, worker("serve"),
            worker("nats-py"), AtMost(1.2)),
        ratio(CLIENTS, "`async def` worker, 64 in flight, CPU to nats-py", PythonCpuUs,
            worker("serve-async"), worker("nats-py"), AtMost(1.5)),
        ratio(CLIENTS, "publisher, CPU to nats-py", PythonCpuUs, publish("client"),
            publish("nats-py"), AtMost(1.2)),
        ratio(CLIENTS, "publications per second to nats-py", PerSecond, publish("client"),
            publish("nats-py"), AtLeast(1.0)),
        ratio(CLIENTS, "`async def` handler, 64 in flight, CPU to a plain one", PythonCpuUs,
            Of("clients-handler", "async"), Of("clients-handler", "plain"), AtMost(3.0)),
        ratio(CLIENTS, "import, time to the published package", ImportMs, import("python"),
            import("published"), AtMost(1.3)),
        ratio(CLIENTS, "import, memory to the published package", ImportMegabytes,
            import("python"), import("published"), AtMost(2.0)),
        value(STREAMS, "parts per second", PerSecond, parts("ipc"), AtLeast(30_000.0)),
        ratio(STREAMS, "parts per second to NATS", PerSecond, parts("ipc"), parts("nats"),
            AtLeast(1.0)),
        ratio(STREAMS, "parts per second to gRPC", PerSecond, parts("ipc"), parts("grpc"),
            AtLeast(2.0)),
        value(LEAVING, "p99 until the worker knows, in round trips", RoundTripsToKnow,
            Of("streams-leaving", "ipc"), Below(5.0)),
        ratio(ATTACHED, "bandwidth to an echo that keeps whole messages", MegabytesPerSecond,
            attached("ipc"), attached("bare-frames"), AtLeast(0.9)),
        ratio(ATTACHED, "bandwidth to the bare echo", MegabytesPerSecond, attached("ipc"),
            attached("bare"), AtLeast(0.75)),
        ratio(ATTACHED_FAN, "deliveries to the bare loop", PerSecond, attached_fan("ipc"),
            attached_fan("bare"), AtLeast(0.95)),
        ratio(TENSOR, "p50 to two sockets with a relay between them", P50Us, tensor("ipc"),
            tensor("sockets"), AtMost(1.5)),
        ratio(TENSOR, "p50 of base64 to attachments", P50Us, tensor("ipc-base64"), tensor("ipc"),
            AtLeast(5.0)),
        ratio(ATTACHED_PYTHON, "p50 to redis-py", P50Us, bytes("client"), bytes("redis-py"),
            Below(1.0)),
        ratio(ATTACHED_PYTHON, "p50 to nats-py", P50Us, bytes("client"), bytes("nats-py"),
            Below(1.0)),
        ratio(ATTACHED_PYTHON, "p50 to grpcio", P50Us, bytes("client"), bytes("grpcio"),
            Below(1.0)),
        ratio(ATTACHED_PYTHON, "p50 to pyzmq", P50Us, bytes("client"), bytes("pyzmq"),
            AtMost(1.2)),
        ratio(PATTERNS, "server CPU to 10 plain subscribers", ServerCpuUs, patterns("ipc"),
            patterns("ipc-plain"), AtMost(1.1)),
        ratio(PATTERNS, "deliveries to NATS", PerSecond, patterns("ipc"), patterns("nats"),
            AtLeast(1.2)),
        ratio(PATTERNS, "deliveries to Redis", PerSecond, patterns("ipc"), patterns("redis"),
            AtLeast(20.0)),
        ratio(HISTORY, "deliveries to those of live fan-out", PerSecond, history("ipc-kept"),
            history("ipc-live"), AtLeast(0.8)),
        ratio(HISTORY, "p99 of another client to that beside live fan-out", P99Us,
            history("ipc-kept"), history("ipc-live"), AtMost(3.0)),
        ratio(BRIDGE, "a request's p50 to that of two clients of NATS", P50Us,
            Of("bridge-requests", "ipc-bridged"), Of("bridge-requests", "nats"), AtMost(2.5)),
        ratio(BRIDGE, "deliveries to 100 subscribers, to those of NATS", PerSecond,
            Of("bridge-fan-out", "ipc-bridged"), Of("bridge-fan-out", "nats"), AtLeast(0.9)),
        ratio(APART, "a request's p50 to a server without", P50Us,
            Of("bridge-local-requests", "ipc-nats"), Of("bridge-local-requests", "ipc"),
            AtMost(1.02)),
        ratio(APART, "a publication's p50 to a server without", P50Us,
            Of("bridge-local-publications", "ipc-nats"), Of("bridge-local-publications", "ipc"),
            AtMost(1.02)),
        value(STEADY, "polls per request, 1 client", PollsPerRequest, CALLS_ONE, ONE_CALL),
        value(STEADY, "reads per request, 1 client", ReadsPerRequest, CALLS_ONE, ONE_CALL),
        value(STEADY, "writes per request, 1 client", WritesPerRequest, CALLS_ONE, ONE_CALL),
        value(STEADY, "other calls per request, 1 client", OtherSyscallsPerRequest, CALLS_ONE,
            NO_CALL),
        value(STEADY, "polls per request, 100 clients", PollsPerRequest, CALLS, ONE_CALL),
        value(STEADY, "reads per request, 100 clients", ReadsPerRequest, CALLS, ONE_CALL),
        value(STEADY, "writes per request, 100 clients", WritesPerRequest, CALLS, ONE_CALL),
        value(STEADY, "other calls per request, 100 clients", OtherSyscallsPerRequest, CALLS,
            NO_CALL),
    ]
};

/// The figures that were measured, by scenario and entrant.
pub(crate) type Measured<'a> = BTreeMap<(&'a str, &'a str), &'a Series>;

/// Judges every goal.
pub(crate) fn judge(measured: &Measured<'_>) -> Vec<Verdict> {
    GOALS.iter().map(|goal| goal.judge(measured)).collect()
}

impl Goal {
    fn judge(&self, measured: &Measured<'_>) -> Verdict {
        let values = |of: Of| {
            let series = measured.get(&(of.0, of.1))?;
            series.get(&self.figure).map(Vec::as_slice)
        };
        let found = match self.over {
            None => values(self.of).and_then(|of| Summary::of(of.iter().flatten().copied())),
            Some(over) => values(self.of)
                .zip(values(over))
                .and_then(|(of, over)| Summary::of_ratios(of, over)),
        };
        let (standing, remark) = match found {
            None => (Standing::NotMeasured, String::new()),
            Some(found) if self.bound.holds(found.median) => (Standing::Reached, String::new()),
            Some(found) => (Standing::Missed, self.bound.distance(found.median)),
        };
        Verdict {
            work: self.work.to_owned(),
            what: self.what.to_owned(),
            bound: self.bound.text(),
            found,
            standing,
            remark,
            missing: self.missing(&values),
        }
    }

    fn missing<'a>(&self, values: &impl Fn(Of) -> Option<&'a [Option<f64>]>) -> Vec<String> {
        let needed = [Some(self.of), self.over].into_iter().flatten();
        let missing = needed.filter(|of| values(*of).is_none());
        missing.map(|Of(scenario, entrant)| format!("{scenario}/{entrant}")).collect()
    }
}

impl Bound {
    pub(crate) fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
            Self::Below(bound) => value < bound,
            Self::Above(bound) => value > bound,
        }
    }

    fn value(self) -> f64 {
        let (Self::AtMost(bound) | Self::AtLeast(bound) | Self::Below(bound) | Self::Above(bound)) =
            self;
        bound
    }

    pub(crate) fn text(self) -> String {
        let sign = match self {
            Self::AtMost(_) => "≤",
            Self::AtLeast(_) => "≥",
            Self::Below(_) => "<",
            Self::Above(_) => ">",
        };
        format!("{sign} {}", self.value())
    }

    /// Returns the distance of `value` from the bound that it misses.
    fn distance(self, value: f64) -> String {
        let bound = self.value();
        if bound < 0.01 {
            return format!("{value:.3} too many");
        }
        let percent = ((value - bound) / bound * 100.0).abs();
        let side = if value > bound { "over" } else { "under" };
        format!("{percent:.1} % {side}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(figure: Figure, values: &[f64]) -> Series {
        BTreeMap::from([(figure, values.iter().map(|value| Some(*value)).collect())])
    }

    const RATIO: Goal = ratio(
        "work",
        "p50",
        Figure::P50Us,
        Of("scenario", "ipc"),
        Of("scenario", "bare"),
        Bound::AtMost(1.05),
    );

    fn verdict(ipc: &[f64], bare: &[f64]) -> Verdict {
        let (ipc, bare) = (series(Figure::P50Us, ipc), series(Figure::P50Us, bare));
        let measured = BTreeMap::from([(("scenario", "ipc"), &ipc), (("scenario", "bare"), &bare)]);
        RATIO.judge(&measured)
    }

    #[test]
    fn a_goal_is_judged_by_the_median_of_the_ratios() {
        let reached = verdict(&[10.0, 21.0, 400.0], &[10.0, 20.0, 40.0]);
        assert_eq!(reached.standing, Standing::Reached);
        assert_eq!(reached.found, Some(Summary { median: 1.05, min: 1.0, max: 10.0 }));
        assert_eq!(reached.bound, "≤ 1.05");

        let missed = verdict(&[21.0], &[10.0]);
        assert_eq!(missed.standing, Standing::Missed);
        assert_eq!(missed.remark, "100.0 % over");
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        let verdict = RATIO.judge(&BTreeMap::new());
        assert_eq!(verdict.standing, Standing::NotMeasured);
        assert_eq!(verdict.missing, ["scenario/ipc", "scenario/bare"]);
    }

    /// Figures are found by the names of a scenario and its entrant.
    #[test]
    fn goals_name_one_entrant_each() {
        let scenarios = crate::scenario::all();
        for goal in GOALS {
            for Of(scenario, entrant) in [Some(goal.of), goal.over].into_iter().flatten() {
                let found = scenarios.iter().filter(|found| found.name == scenario);
                let entrants = found.flat_map(|found| &found.entrants);
                let count = entrants.filter(|found| found.name == entrant).count();
                assert_eq!(count, 1, "{scenario}/{entrant}");
            }
        }
    }

    #[test]
    fn bounds_include_what_they_say() {
        assert!(Bound::AtMost(1.0).holds(1.0) && !Bound::AtMost(1.0).holds(1.01));
        assert!(Bound::AtLeast(1.0).holds(1.0) && !Bound::AtLeast(1.0).holds(0.99));
        assert!(Bound::Below(1.0).holds(0.99) && !Bound::Below(1.0).holds(1.0));
        assert!(Bound::Above(1.0).holds(1.01) && !Bound::Above(1.0).holds(1.0));
        assert_eq!(Bound::AtLeast(2.0).distance(1.5), "25.0 % under");
    }

    #[test]
    fn every_goal_names_what_is_measured() {
        let scenarios = crate::scenario::all();
        for goal in GOALS {
            for Of(scenario, entrant) in [Some(goal.of), goal.over].into_iter().flatten() {
                let found = scenarios.iter().find(|found| found.name == scenario);
                let entrants = &found.unwrap_or_else(|| panic!("{scenario}")).entrants;
                assert!(entrants.iter().any(|found| found.name == entrant), "{scenario}/{entrant}");
            }
        }
    }
}
