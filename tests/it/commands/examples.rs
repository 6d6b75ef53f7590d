//! Every example in the help of a subcommand, run as it is written there.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::cli::{Running, ipc, serve};
use crate::scratch::Scratch;

/// Examples that run for ever are interrupted after so many seconds. On a busy machine that may be
/// before they are ready for it, so they have more time if they fail.
const ENOUGH: [&str; 3] = ["3", "15", "60"];
const FOR_EVER: [&str; 6] = ["serve", "subscribe", "worker", "ping", "bench", "chat"];
/// Examples that end by themselves have this time, however busy the machine is.
const TOO_LONG: [&str; 1] = ["120"];

fn help(arguments: &[&str]) -> String {
    String::from_utf8(ipc().args(arguments).arg("--help").output().unwrap().stdout).unwrap()
}

fn subcommands() -> Vec<String> {
    let help = help(&[]);
    let lines = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let named = lines.take_while(|line| !line.is_empty()).filter_map(|line| {
        // Continuation lines are indented further.
        let indent = line.len() - line.trim_start().len();
        (indent == 2).then(|| line.split_whitespace().next().unwrap().to_owned())
    });
    named.filter(|name| name != "help").collect()
}

fn examples(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| !line.starts_with("Examples:")).skip(1);
    lines.take_while(|line| !line.is_empty()).map(|line| line.trim().to_owned()).collect()
}

/// Replaces paths and ports of an example by the test's own.
fn adapted(example: &str, scratch: &Path) -> String {
    let scratch = scratch.to_str().unwrap();
    let own = example
        .replace("/run/ipc.sock", &format!("{scratch}/ipc.sock"))
        .replace("/etc/ipc/token", &format!("{scratch}/token"))
        .replace("/etc/ipc/ipc.toml", &format!("{scratch}/ipc.toml"));
    if own.starts_with("ipc serve") {
        let own = own.replace("ipc.sock", "served.sock").replace("--port 9000", "--port 0");
        let is_placed = own.contains("--port") || own.contains("--no-tcp");
        return if is_placed { own } else { format!("{own} --port 0") };
    }
    // The screen needs keys, which its own test presses.
    if own.starts_with("ipc top") && !own.contains("--json") {
        return format!("{own} --json --count 1");
    }
    own
}

#[test]
fn every_example_works() {
    let scratch = Scratch::new("examples");
    let token = scratch.file("token", 0o600, "a long secret\n");
    fs::write(scratch.0.join("ipc.toml"), "max-connections = 100\n").unwrap();
    fs::write(scratch.0.join("order.json"), "{\"apples\": 3}").unwrap();
    fs::write(scratch.0.join("report.json"), "[1]").unwrap();
    fs::write(scratch.0.join("cat.jpg"), b"\xff\xd8").unwrap();
    for place in [".local/share/bash-completion/completions", ".zfunc", ".config/fish/completions"]
    {
        fs::create_dir_all(scratch.0.join(place)).unwrap();
    }
    let socket = scratch.socket();
    let socket = socket.to_str().unwrap();
    let running = Running::start(serve(&["--demo", "--port", "0", "--unix", socket]));
    let program = Path::new(env!("CARGO_BIN_EXE_ipc")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let names = subcommands();
    assert!(names.len() >= 15, "{names:?}");
    let run = |example: &str| {
        let script = adapted(example, &scratch.0);
        // A command without a pipe gets the signal itself.
        let is_alone = !script.contains(['|', '>']);
        let script = if is_alone { format!("exec {script}") } else { script };
        let goes_on = FOR_EVER.iter().any(|name| example.contains(&format!("ipc {name}")));
        let times = if goes_on { &ENOUGH[..] } else { &TOO_LONG };
        let mut failure = String::new();
        let succeeds = times.iter().any(|enough| {
            let mut command = Command::new("timeout");
            command
                .args(["--foreground", "--preserve-status", "--signal", "INT", *enough])
                .args(["sh", "-c", &script])
                .current_dir(&scratch.0)
                .envs([("PATH", path.as_str()), ("HOME", scratch.0.to_str().unwrap())])
                .env("IPC_PORT", running.address().port().to_string())
                .env_remove("IPC_TOKEN")
                .stdin(Stdio::null());
            if script.contains("--host 0.0.0.0") {
                assert!(script.contains(&token), "public only with a token");
            }
            let Output { status, stdout, stderr } = command.output().unwrap();
            let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
            failure = format!("{status}\n{stdout}\n{stderr}");
            status.success()
        });
        assert!(succeeds, "{script}\n{failure}");
    };
    std::thread::scope(|scope| {
        for name in &names {
            let examples = examples(&help(&[name]));
            assert!(!examples.is_empty(), "ipc {name} --help has no example");
            let run = &run;
            scope.spawn(move || examples.iter().for_each(|example| run(example)));
        }
    });
}

#[test]
fn the_help_of_every_subcommand_tells_exit_codes_and_variables() {
    for name in subcommands() {
        let help = help(&[&name]);
        assert_filled(&name, &help);
        if ["serve", "completions", "man", "demo"].contains(&name.as_str()) {
            continue;
        }
        for told in ["Exit codes: 0", "IPC_HOST", "IPC_TOKEN_FILE", "--timeout", "--unix"] {
            assert!(help.contains(told), "ipc {name} --help does not tell {told}");
        }
        let widest = help.lines().map(|line| line.chars().count()).max().unwrap_or_default();
        assert!(widest <= 80, "ipc {name} --help is {widest} wide");
    }
}

/// Checks that no line of a paragraph ends where the next word would still fit.
fn assert_filled(name: &str, help: &str) {
    let lines: Vec<&str> = help.lines().collect();
    for pair in lines.windows(2) {
        let is_text = pair.iter().all(|line| line.starts_with(char::is_alphabetic));
        let Some(next) = pair[1].split_whitespace().next().filter(|_| is_text) else { continue };
        let has_room = pair[0].chars().count() + 1 + next.chars().count() <= 80;
        let is_over = pair[0].ends_with(['.', ':']);
        assert!(!has_room || is_over, "ipc {name} --help breaks off early: {pair:?}");
    }
}
