//! The command line against the unmodified server of the `PyPI` package, which confirms nothing.
//! tests/interop/run.py runs these tests: it installs the package and names its interpreter.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{Live, documents};
use crate::cli::{assert_fails, ipc};
use crate::client::published::Published;

/// A command that waits for a confirmation would not end before this.
const NEVER: &str = "10min";

fn command(server: &Published, arguments: &[&str]) -> Command {
    let mut command = ipc();
    command.args(arguments).args(["--app", "app", "--host", "127.0.0.1", "--timeout", NEVER]);
    command.args(["--port", &server.port().to_string()]).stdin(Stdio::null());
    command
}

#[test]
#[ignore = "needs the published package: tests/interop/run.py runs it"]
fn what_it_never_confirms_is_not_waited_for() {
    let server = Published::start();
    let prints = |arguments: &[&str]| {
        let output = crate::cli::output(command(&server, arguments));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let mut subscriber = Live::start(command(&server, &["subscribe", "news", "--json"]));
    // The server does not confirm the subscription, so the test publishes until a message arrives.
    let told = prints(&["publish", "news", "1", "--json"]);
    let expected = json!({"channel": "news", "type": "publish", "sent": 1, "confirmed": false});
    assert_eq!(documents(&told), [expected]);
    let publisher = Live::start(command(&server, &["chat", "Ada", "--channel", "news"]));
    let heard: Value = serde_json::from_str(&subscriber.read_line()).unwrap();
    assert_eq!(heard["channel"], "news");
    assert_eq!(publisher.end().0, Some(0));
    prints(&["notify", "notes", "\"remember\""]);
    assert_eq!(prints(&["request", "notes"]), "[\"remember\"]\n");
    let bench = ["bench", "--json", "--duration", "2s", "--warmup", "0"];
    for load in [&["publish"][..], &["fan-out"], &["--rate", "20"], &["publish", "--rate", "20"]] {
        let report = documents(&prints(&[&bench, load].concat())).remove(0);
        assert!(report["count"].as_u64() > Some(0), "{report}");
    }
}

#[test]
#[ignore = "needs the published package: tests/interop/run.py runs it"]
fn what_it_does_not_know_is_told_at_once() {
    let server = Published::start();
    for arguments in [&["ping"][..], &["stats"], &["channels"], &["top", "--json"]] {
        assert_fails(command(&server, arguments), 1, "run `ipc serve` in its place");
    }
    let mut worker = ipc();
    worker.args(["worker", "square", "--app", "app", "--host", "127.0.0.1", "--timeout", NEVER]);
    worker.args(["--port", &server.port().to_string(), "--", "cat"]);
    assert_fails(worker, 1, "knows no workers");
}
