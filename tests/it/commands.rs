//! The subcommands other than `ipc serve`, run as users run them against `ipc serve --demo`.

mod asking;
mod attaching;
mod bench;
mod examples;
mod leaving;
mod listening;
mod published;
mod screen;
mod servers;
mod shared;
mod streaming;
pub(crate) mod terminal;
mod topics;
mod working;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use serde_json::Value;

use crate::cli::{Running, ipc, serve};
use crate::support::until;

/// A running `ipc serve --demo`.
struct Demo(Running);

impl Demo {
    fn start() -> Self {
        Self::start_at(0)
    }

    fn start_at(port: u16) -> Self {
        let port = port.to_string();
        Self(Running::start(serve(&["--demo", "--host", "127.0.0.1", "--port", &port])))
    }

    /// Builds a subcommand that connects to this server.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = ipc();
        command.args(arguments).env("IPC_HOST", "127.0.0.1");
        command.env("IPC_PORT", self.0.address().port().to_string()).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a subcommand, which has to succeed, and returns its standard output.
    fn prints(&self, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.run(arguments);
        assert!(status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    /// Runs a subcommand and returns each line of its standard output as JSON.
    fn documents(&self, arguments: &[&str]) -> Vec<Value> {
        documents(&self.prints(arguments))
    }
}

fn documents(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// A subcommand that runs until it is stopped. It is killed if the test does not stop it.
struct Live {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Live {
    /// Starts it and waits until it says that it is ready.
    fn start(command: Command) -> Self {
        let mut child = spawn(command);
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        stderr.read_line(&mut said).unwrap();
        assert!(said.contains("with Ctrl-"), "it did not start: {said}");
        Self { child, stderr }
    }

    fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    fn say(&mut self, line: impl AsRef<[u8]>) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(&[line.as_ref(), b"\n"].concat()).unwrap();
    }

    fn read_line(&mut self) -> String {
        let mut line = Vec::new();
        let stdout = self.child.stdout.as_mut().unwrap();
        let mut byte = [0];
        while stdout.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }

    fn read_error(&mut self) -> String {
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        line
    }

    /// Waits for the end, and returns the exit code, the rest of standard output, and standard
    /// error.
    fn end(mut self) -> (Option<i32>, String, String) {
        drop(self.child.stdin.take());
        until("its end", || self.child.try_wait().unwrap(), Option::is_some);
        let (mut out, mut err) = (String::new(), String::new());
        self.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        self.stderr.read_to_string(&mut err).unwrap();
        (self.child.wait().unwrap().code(), out, err)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a command with pipes to its standard streams.
fn spawn(mut command: Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Runs a command with this standard input.
fn feed(command: Command, input: &str) -> Output {
    let mut child = spawn(command);
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Starts a ping every 20 ms, and waits until the first one is answered.
fn ping(demo: &Demo, arguments: &[&str]) -> Child {
    let mut child = spawn(demo.command(&[&["ping", "-i", "20ms"], arguments].concat()));
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    child
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
}
