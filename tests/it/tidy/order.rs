//! The files of a room stand on floors, and a file imports only what stands on its own floor or
//! below it, without a circle. Where that holds, a file can be understood with those below it.

use std::collections::{BTreeMap, BTreeSet};

use super::{files, imports, without_comments};

/// A folder and the files in it, from the bottom to the top.
///
/// An entry names `<folder>/<entry>.rs` together with all files of the folder `<folder>/<entry>/`,
/// unless these have entries of their own. A name with a question mark is planned and may be
/// absent. Every file needs an entry, but for a `mod.rs` that imports nothing.
struct Room {
    folder: &'static str,
    floors: &'static [&'static str],
}

const ROOMS: &[Room] = &[
    Room {
        folder: "src",
        floors: &[
            "address branches descriptors trace token handler_error setters proto",
            "broker",
            "error secret_file tls config net",
            "bridge",
            "server client",
            "simulation fuzzing lib",
            "cli main",
        ],
    },
    Room {
        folder: "src/proto",
        floors: &[
            "buffer_pool dtype error_code escape frame json/scratch json_str limits position timestamp",
            "trace_context",
            "fault recv_buffer message_type stamp element leaves part",
            "scanner attachments/layout",
            "members extensions",
            "meta attachments/bin attachments/pointers",
            "attachments attachments/outgoing",
            "carried",
            "value/draft",
            "value blob tensor",
            "json",
            "attached publication",
            "envelope system attachments/in_json",
            "fields pattern",
            "parse decoder",
            "message oracle relay",
            "encode",
            "encoder out_frame attachments/new",
            "attachments/naive placed",
            "attachments/fuzzing",
            "send_queue",
            "mod fuzzing",
        ],
    },
    Room {
        folder: "src/broker",
        floors: &[
            // Set by the operator.
            "turn_limits",
            "history_rule",
            "limits access",
            // Tables: each owns its data and knows no other.
            "state/keys state/load state/topic/seat",
            "state/buses",
            "state/topic/verdicts state/topic/replays state/topic/search",
            "state/arena state/interest state/line state/mailbox state/peer state/encoder state/refusal",
            "state/histogram state/counters state/timeouts state/timers state/events state/watch",
            "state/latency state/call_index state/calls state/request_id",
            "state/topic/patterns state/topic/session state/topic/wanted",
            "state/connection state/service",
            "state/budget state/topic/history state/topic/retained",
            "state/topic",
            "state/router state/requests state/turn state/stats",
            "state/core",
            // The course of messages and connections.
            "flow/interest flow/kept flow/loads flow/attachments flow/topic",
            "flow/forms",
            "flow/measuring flow/queues flow/channels",
            "flow/topic/audience flow/topic/conflation",
            "flow/answers flow/calls",
            "flow/topic/verdicts",
            "flow/topic/replays",
            "flow/topic/keeping flow/topic/searches",
            "flow/topic/publishing",
            "flow/topic/fan_out",
            "flow/cancels",
            "flow/subscriptions flow/requests",
            "flow/topic/patterns",
            "flow/run flow/hand_out flow/streams flow/forwarding",
            "flow/workers",
            "flow/closing",
            "flow/applications",
            "flow/memory flow/drain",
            "flow/reload flow/upkeep",
            // The process around it.
            "embed/context",
            "embed/publication",
            "embed/responder",
            "embed/handle",
            "embed/part_sender embed/retained",
            "embed/request",
            "embed/changes",
            "embed/manage embed/setup embed/handlers",
            // The peers.
            "peer/listings peer/operator peer/searching peer/sharing peer/unserved",
            "peer/purge",
            "peer/system",
            "peer/dispatch",
            // The driver's door.
            "broker",
            "agreement inspection setup share",
            "mod",
            "fuzzing",
        ],
    },
    Room {
        folder: "src/net",
        floors: &[
            "inherited quickack system tls_records unix_socket user_namespace",
            // For tests alone.
            "fake",
            "accept budget clock protection rings socket tcp_socket tls_stream waiting",
            "ring",
            "stream",
            "link_opener listener",
            "mio_system",
            "event_loop",
            "mod",
            "fuzzing",
        ],
    },
    Room {
        folder: "src/bridge",
        floors: &[
            "names options packet settings standing stats",
            "events",
            "control frames outbox subjects",
            "presence state too_large tunnel",
            "loads",
            "crossing",
            "publications servers",
            "inbox machine",
            "nats/links nats/outgoing nats/subscriptions",
            "nats",
            "mod",
        ],
    },
    Room { folder: "src/server", floors: &["mod", "joining problems reload published"] },
    Room {
        folder: "src/client",
        floors: &[
            "background/shield endpoint payload reconnect serve_options server_limits subscribed",
            "background/topic",
            "cancel_token error tls",
            "meta_text subscribe_options",
            "options event publish_options request_options",
            "client_options servers",
            // Bytes, frames and messages.
            "wire/addresses wire/answer wire/encoded_frame wire/no_signal wire/read_buffer",
            "wire/rings wire/tls_session",
            "wire/encoder wire/frames wire/socket wire/tls_failure",
            "wire/wait",
            // The blocking client.
            "connection",
            // The client for many threads.
            "background/inbox background/job background/outbox background/parts",
            "call",
            "background/progress background/waiter",
            "background/routes",
            "background/pending",
            "background/state",
            "background/shared",
            "background/answering background/calls",
            "part_sender",
            "background/incoming background/listeners background/open background/worker",
            "background/driver",
            "request_future subscription",
            "request_stream",
            "client",
            "asking calling listening publishing serving",
            "pool",
            "mod fuzzing",
        ],
    },
    Room {
        folder: "src/simulation",
        floors: &[
            "decisions trace wire",
            "scenario pipe",
            "kernel",
            "stream",
            "system",
            "embedded",
            "model/call model/kept model/tokens",
            "model/mod",
            "model/answers model/balance model/blobs model/calls model/concurrency model/drain model/endings",
            "model/publications model/following",
            "peer",
            "world",
            "acts checks links speech",
            "calls keeping",
            "probes",
            "ending",
            "mod",
        ],
    },
    Room {
        folder: "src/cli",
        floors: &[
            // The parts that subcommands share.
            "program",
            "failure units demo_applications",
            "answers attach document interrupt payload tls token",
            "latency output target",
            "audience comeback",
            "feed following",
            "sending",
            // The subcommands, with the parts of the larger ones before them.
            "serve/channels serve/exposition serve/histograms serve/nats_metrics serve/rate_limit serve/settings",
            "serve/crash serve/flags serve/hints serve/nats serve/settings_file",
            "serve/series",
            "serve/health serve/latency_log serve/log_queue serve/metrics",
            "serve/service_manager serve/status",
            "serve/http",
            "serve/logging",
            "serve/signals",
            "serve",
            "bench/measure",
            "bench/pace",
            "bench/fan_out bench/open_loop bench/streams",
            "bench/load bench/report",
            "bench",
            "channels",
            "top/sample",
            "top/sampler top/screen",
            "top",
            "demo/patterns",
            "demo",
            "worker/command",
            "worker worker/lines",
            "subscribe",
            "applications chat completions connections man notify ping publish purge request stats",
            "mod",
        ],
    },
    Room {
        folder: "clients/python/src",
        floors: &[
            "aside attachments errors json",
            "inside notices",
            "cancelled message parts",
            "client/errors client/link",
            "client/job client/refused client/subscriptions",
            "client/inbox client/jobs client/waiter",
            "client/asked",
            "client",
            "client/listening client/sending",
            "server/options server/turn",
            "server/connections server/reply",
            "server/origin",
            "server/calls",
            "server/jobs server/shared",
            "server/dispatch",
            "server",
            "lib",
        ],
    },
];

/// The files of a crate: each with the text that counts, and its path as a module.
struct Crate {
    /// By module path, such as `broker::state::core`. The root is the empty path.
    modules: BTreeMap<String, Module>,
}

struct Module {
    /// From the root of the repository, without `.rs`.
    file: String,
    /// The paths that it names, from the crate's root.
    paths: BTreeSet<String>,
    /// The names that it hands on: the name, and the path that it stands for.
    handed_on: Vec<(String, String)>,
}

/// The imports of each file.
type Graph = BTreeMap<String, BTreeSet<String>>;

#[test]
fn no_file_imports_what_stands_above_it() {
    let graph = graph();
    let mut complaints = Vec::new();
    for room in ROOMS {
        complaints.extend(complaints_about(room, &graph));
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn no_files_import_one_another_in_a_circle() {
    let complaints: Vec<String> = circles(&graph())
        .iter()
        .map(|circle| format!("these import one another in a circle: {}", circle.join(" ")))
        .collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

fn complaints_about(room: &Room, graph: &Graph) -> Vec<String> {
    let mut floors = BTreeMap::new();
    let mut complaints = Vec::new();
    for (floor, names) in room.floors.iter().enumerate() {
        for name in names.split_whitespace() {
            let entry = name.trim_end_matches('?');
            floors.insert(entry, floor);
            let path = format!("{}/{entry}", room.folder);
            let is_there = graph.keys().any(|file| is_within(file, &path));
            if !is_there && !name.ends_with('?') {
                complaints.push(format!("{path} has a floor and is not there"));
            }
        }
    }
    for (file, imported) in graph.iter().filter(|(file, _)| is_within(file, room.folder)) {
        let Some((entry, floor)) = find(room, &floors, file) else {
            if !(file.ends_with("/mod") && imported.is_empty()) {
                complaints.push(format!("{file} has no floor in the table of {}", room.folder));
            }
            continue;
        };
        for import in imported {
            if let Some((other, above)) = find(room, &floors, import)
                && above > floor
                && other != entry
            {
                complaints.push(format!("{file} imports {import}, which stands above it"));
            }
        }
    }
    complaints
}

/// The longest entry that covers a file, and its floor.
fn find<'a>(
    room: &Room,
    floors: &BTreeMap<&'a str, usize>,
    file: &str,
) -> Option<(&'a str, usize)> {
    let within = file.strip_prefix(room.folder)?.strip_prefix('/')?;
    let covering = floors.iter().filter(|(entry, _)| is_within(within, entry));
    covering.max_by_key(|(entry, _)| entry.len()).map(|(entry, floor)| (*entry, *floor))
}

fn is_within(file: &str, path: &str) -> bool {
    file.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn graph() -> Graph {
    let mut graph = Graph::new();
    for root in ["src", "clients/python/src"] {
        let found = Crate::read(root);
        for (path, module) in &found.modules {
            let imported = module.paths.iter().filter_map(|named| found.file_of(named, path));
            let imported = imported.filter(|file| *file != module.file).collect();
            graph.insert(module.file.clone(), imported);
        }
    }
    graph
}

impl Crate {
    fn read(root: &str) -> Self {
        let mut texts = BTreeMap::new();
        for (path, text) in files() {
            let path = path.to_string_lossy().into_owned();
            let within = path.strip_prefix(root).and_then(|path| path.strip_prefix('/'));
            let Some(within) = within.and_then(|path| path.strip_suffix(".rs")) else { continue };
            // Tests may look into everything.
            if within.split('/').any(|part| part == "tests") {
                continue;
            }
            let module = match within {
                "lib" => String::new(),
                _ => within.trim_end_matches("/mod").replace('/', "::"),
            };
            texts.insert(module, (format!("{root}/{within}"), text));
        }
        assert!(texts.contains_key(""), "{root} has no lib.rs");
        let names: BTreeSet<String> = texts.keys().cloned().collect();
        let read = |(path, (file, text)): (String, (String, String))| {
            let module = Module::read(&path, file, &text, &names);
            (path, module)
        };
        Self { modules: texts.into_iter().map(read).collect() }
    }

    /// The file that a path leads to, through all names that are handed on. `None`: it is no file
    /// of this crate.
    fn file_of(&self, named: &str, from: &str) -> Option<String> {
        let mut named = named.to_owned();
        // A circle of names that are handed on would not compile.
        for _ in 0..10 {
            let module = self.module_of(&named)?;
            let rest = named[module.len()..].trim_start_matches("::").to_owned();
            let found = &self.modules[&module];
            let item = rest.split("::").next().unwrap_or_default();
            let target = found.handed_on.iter().find(|(name, _)| name == item);
            match target {
                Some((_, target)) if !item.is_empty() && module != from => {
                    named = format!("{target}{}", &rest[item.len()..]);
                }
                _ => return Some(found.file.clone()),
            }
        }
        None
    }

    /// The innermost module on a path.
    fn module_of(&self, named: &str) -> Option<String> {
        let mut path = named;
        loop {
            if self.modules.contains_key(path) {
                return Some(path.to_owned());
            }
            path = path.rsplit_once("::").map_or("", |(outer, _)| outer);
        }
    }
}

impl Module {
    fn read(path: &str, file: String, text: &str, modules: &BTreeSet<String>) -> Self {
        let code = without_tests(&without_comments(text));
        let mut module = Self { file, paths: BTreeSet::new(), handed_on: Vec::new() };
        let mut rest = String::new();
        for statement in code.split_inclusive(';') {
            let Some((before, tree)) = use_tree(statement) else {
                rest.push_str(statement);
                continue;
            };
            rest.push_str(before);
            let is_handed_on = before.trim_end().ends_with("pub")
                || before.trim_end().ends_with(')') && before.contains("pub(");
            for import in imports(tree) {
                let (import, name) = match import.split_once(" as ") {
                    Some((import, name)) => (import.to_owned(), name.to_owned()),
                    None => (import.clone(), last(&import).to_owned()),
                };
                let import = import.trim_end_matches("::self").to_owned();
                let Some(target) = absolute(path, &import, modules) else { continue };
                if is_handed_on {
                    module.handed_on.push((name, target.clone()));
                }
                module.paths.insert(target);
            }
        }
        module.paths.extend(inline_paths(path, &rest, modules));
        module
    }
}

/// Splits a statement that ends with a `use` into what stands before it and the tree.
fn use_tree(statement: &str) -> Option<(&str, &str)> {
    let at = statement.rfind("use ")?;
    let (before, tree) = (&statement[..at], &statement[at + 4..]);
    let begins = before.chars().next_back().is_none_or(char::is_whitespace);
    begins.then_some((before, tree.trim_end_matches(';')))
}

fn last(path: &str) -> &str {
    let path = path.trim_end_matches("::self");
    path.rsplit("::").next().unwrap_or(path)
}

/// A path from the crate's root; `None` for one of another crate.
fn absolute(module: &str, path: &str, modules: &BTreeSet<String>) -> Option<String> {
    let join = |outer: &str, inner: &str| match (outer, inner) {
        ("", inner) => inner.to_owned(),
        (outer, "") => outer.to_owned(),
        (outer, inner) => format!("{outer}::{inner}"),
    };
    let (first, mut rest) = path.split_once("::").unwrap_or((path, ""));
    match first {
        "crate" => Some(rest.to_owned()),
        "self" => Some(join(module, rest)),
        "super" => {
            let mut outer = module.rsplit_once("::").map_or("", |(outer, _)| outer);
            while let Some(further) = rest.strip_prefix("super::") {
                rest = further;
                outer = outer.rsplit_once("::").map_or("", |(outer, _)| outer);
            }
            Some(join(outer, rest))
        }
        // A module of its own.
        _ => Some(join(module, first))
            .filter(|own| modules.contains(own))
            .map(|own| join(&own, rest)),
    }
}

/// The paths in the code itself that begin with `crate`, `super` or a module of its own.
fn inline_paths(module: &str, code: &str, modules: &BTreeSet<String>) -> BTreeSet<String> {
    let is_path = |char: char| char.is_alphanumeric() || char == '_' || char == ':';
    let outer = if module.is_empty() { String::new() } else { format!("{module}::") };
    let own = modules.iter().filter_map(|path| path.strip_prefix(&outer));
    let own = own.filter(|name| !name.is_empty() && !name.contains("::"));
    let own = own.map(|name| format!("{name}::"));
    let mut found = BTreeSet::new();
    for start in own.chain(["crate::".to_owned(), "super::".to_owned()]) {
        for (at, _) in code.match_indices(&start) {
            // `pub(in crate::a)` names a folder and imports nothing.
            if code[..at].chars().next_back().is_some_and(is_path) || code[..at].ends_with("(in ") {
                continue;
            }
            let path = code[at..].split(|char| !is_path(char)).next().unwrap_or_default();
            let path = path.trim_end_matches(':');
            found.extend(absolute(module, path, modules));
        }
    }
    found
}

/// The code without its modules of tests.
fn without_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut skips = false;
    for line in code.lines() {
        if line == "mod tests {" {
            skips = true;
        }
        if !skips {
            kept.push_str(line);
            kept.push('\n');
        }
        if line == "}" {
            skips = false;
        }
    }
    kept
}

/// The files that import one another in a circle, by circle.
fn circles(graph: &Graph) -> Vec<Vec<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> =
        graph.keys().map(|file| (file, reached_from(graph, file))).collect();
    let mut circles: BTreeSet<Vec<String>> = BTreeSet::new();
    for (file, others) in &reached {
        let circle = others.iter().filter(|other| reached[**other].contains(*file));
        let mut circle: Vec<String> = circle.map(|other| (*other).clone()).collect();
        circle.sort();
        if !circle.is_empty() {
            circles.insert(circle);
        }
    }
    circles.into_iter().collect()
}

fn reached_from<'a>(graph: &'a Graph, file: &str) -> BTreeSet<&'a String> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&String> = graph[file].iter().collect();
    while let Some(file) = next.pop() {
        if reached.insert(file) {
            next.extend(graph.get(file).into_iter().flatten());
        }
    }
    reached
}

#[test]
fn imports_are_found_however_they_are_written() {
    let modules: BTreeSet<String> =
        ["", "a", "a::b", "a::b::e", "a::c", "d"].iter().map(|path| (*path).to_owned()).collect();
    let paths = |text: &str| {
        let module = Module::read("a::b", "a/b".to_owned(), text, &modules);
        module.paths.into_iter().collect::<Vec<_>>().join(" ")
    };
    for (text, expected) in [
        ("use super::c::X;", "a::c::X"),
        ("use super::{c::{self, X}, Y};", "a::Y a::c a::c::X"),
        ("pub(crate) use crate::d::X as Y;", "d::X"),
        ("fn f() { crate::d::run(super::c::X) }", "a::c::X d::run"),
        ("use super::super::d;", "d"),
        ("mod e;\nfn f() { e::run(other::e::run) }", "a::b::e::run"),
        ("// use super::c;\nuse std::fmt;", ""),
        ("#[cfg(test)]\nmod tests {\n    use super::super::c;\n}\nuse crate::d;", "d"),
    ] {
        assert_eq!(paths(text), expected, "{text}");
    }
}

#[test]
fn a_circle_and_a_file_that_imports_upwards_are_found() {
    let graph = |edges: &[(&str, &str)]| {
        let mut graph = Graph::new();
        for (from, to) in edges {
            graph.entry((*from).to_owned()).or_default().insert((*to).to_owned());
            graph.entry((*to).to_owned()).or_default();
        }
        graph
    };
    let room = Room { folder: "r", floors: &["low later?", "mid/a mid/b", "top"] };
    let good = graph(&[("r/top", "r/mid/a"), ("r/mid/a", "r/mid/b"), ("r/mid/b", "r/low")]);
    assert_eq!(complaints_about(&room, &good), Vec::<String>::new());
    assert_eq!(circles(&good), Vec::<Vec<String>>::new());
    let bad = graph(&[("r/low", "r/mid/a"), ("r/mid/a", "r/mid/b"), ("r/mid/b", "r/low")]);
    let complaints = complaints_about(&room, &bad);
    assert!(complaints.contains(&"r/low imports r/mid/a, which stands above it".to_owned()));
    assert!(complaints.contains(&"r/top has a floor and is not there".to_owned()));
    assert_eq!(circles(&bad), [["r/low", "r/mid/a", "r/mid/b"].map(str::to_owned)]);
}
