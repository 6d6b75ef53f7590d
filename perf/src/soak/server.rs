//! The server under load: a child process, from its start to its end.

use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::lock;
use super::samples::Sample;
use crate::endpoint::Endpoint;
use crate::proc;

/// The most bytes of its standard error that a report shows.
const LAST_WORDS_BYTES_MAX: usize = 4 << 10;
/// The longest time until the server has ended. It drains for 10 s at most.
const END_MAX: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// The directory for the files of a run, which is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("ipc-soak-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // If this fails, a directory is left in the system's directory for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The settings of a server.
#[derive(Clone, Debug)]
pub(super) struct Orders {
    pub(super) program: PathBuf,
    pub(super) host: &'static str,
    /// The port, or 0 for any.
    pub(super) port: u16,
    pub(super) unix: PathBuf,
    pub(super) settings: Option<PathBuf>,
    /// The buffer that its standard error goes to.
    pub(super) words: LastWords,
}

/// The last lines that servers wrote to standard error, as part of a report.
#[derive(Clone, Debug, Default)]
pub(super) struct LastWords(Arc<Mutex<VecDeque<u8>>>);

impl LastWords {
    /// Reads on until the server ends.
    fn listen(&self, mut errors: ChildStderr) {
        let words = self.clone();
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = errors.read(&mut chunk) {
                let mut words = lock(&words.0);
                words.extend(&chunk[..count]);
                let excess = words.len().saturating_sub(LAST_WORDS_BYTES_MAX);
                words.drain(..excess);
            }
        });
    }
}

impl fmt::Display for LastWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = lock(&self.0);
        if words.is_empty() {
            return f.write_str("the server said nothing");
        }
        write!(f, "the server said last:\n{}", String::from_utf8_lossy(words.make_contiguous()))
    }
}

#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    pub(super) targets: Vec<Endpoint>,
    /// Standard output, which is kept open: otherwise the server's writes to it would fail.
    output: BufReader<ChildStdout>,
}

impl Server {
    pub(super) fn start(orders: &Orders) -> Result<Self, String> {
        let name = orders.program.display();
        let mut command = Command::new(&orders.program);
        command.args(["serve", "--demo", "--host", orders.host]);
        command.args(["--port", &orders.port.to_string()]).arg("--unix").arg(&orders.unix);
        if let Some(settings) = &orders.settings {
            command.arg("--config").arg(settings);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("cannot start {name}: {error}"))?;
        let output = child.stdout.take().ok_or("no output")?;
        if let Some(errors) = child.stderr.take() {
            orders.words.listen(errors);
        }
        let mut server = Self { child, targets: Vec::new(), output: BufReader::new(output) };
        while server.unix().is_none() {
            // The Unix socket is the last address that the server prints.
            let mut line = String::new();
            if !matches!(server.output.read_line(&mut line), Ok(1..)) {
                return Err(format!("{name} does not listen"));
            }
            let address = line.trim().strip_prefix("listening on ").unwrap_or_default();
            if let Some(path) = address.strip_prefix("unix:") {
                server.targets.push(Endpoint::Unix(path.into()));
            } else if let Ok(address) = address.parse() {
                server.targets.push(Endpoint::Tcp(address));
            }
        }
        Ok(server)
    }

    fn unix(&self) -> Option<&Path> {
        self.targets.iter().find_map(|target| match target {
            Endpoint::Unix(path) => Some(path.as_path()),
            Endpoint::Tcp(_) => None,
        })
    }

    pub(super) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(super) fn sample(&mut self, at: Duration) -> Result<Sample, String> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Err(format!("the server ended by itself: {status}"));
        }
        let resident_bytes = proc::resident_bytes(self.pid()).ok_or("no VmRSS of the server")?;
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        let descriptors = descriptors.map_err(|error| format!("descriptors: {error}"))?.count();
        Ok(Sample { milliseconds: at.as_millis() as u64, resident_bytes, descriptors })
    }

    /// Asks the server to drain, and checks that it ends by itself and successfully.
    pub(super) fn end(mut self) -> Result<(), String> {
        let sent = kill_process(self.pid(), Signal::TERM);
        sent.map_err(|error| format!("cannot signal the server: {error}"))?;
        let begin = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => {
                    return Err(format!("SIGTERM ended the server with {status}"));
                }
                Ok(None) if begin.elapsed() < END_MAX => thread::sleep(LOOK_INTERVAL),
                Ok(None) => {
                    let after = END_MAX.as_secs();
                    return Err(format!("SIGTERM does not end the server in {after} s"));
                }
                Err(error) => return Err(format!("cannot wait for the server: {error}")),
            }
        }
    }

    /// Kills the server without a drain.
    pub(super) fn kill(&mut self) {
        // The process may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
