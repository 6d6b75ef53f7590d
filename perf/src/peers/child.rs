//! A server process, from start to end.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::endpoint::Endpoint;
use crate::pin::Cpus;

/// A process that listens. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// The address that it listens on.
    pub(crate) endpoint: Endpoint,
    log: PathBuf,
    /// Another server that is joined to it, to which workers and subscribers connect.
    pub(super) far: Option<Box<Server>>,
    /// What it needs, and ends behind it.
    pub(super) broker: Option<Box<Server>>,
    /// Standard output, which is kept open, because a server may fail when it is closed.
    output: Option<BufReader<ChildStdout>>,
}

/// The sign by which a server shows that it listens.
#[derive(Debug)]
pub(super) enum Signal {
    /// It prints `listening on ADDRESS` for each address.
    Line,
    /// It accepts connections at the address that it was given.
    Accepts(Endpoint),
}

/// The longest start. A server that does not listen by then has failed.
const START_MAX: Duration = Duration::from_secs(20);

impl Server {
    pub(super) fn start(
        mut command: Command,
        signal: Signal,
        unix: Option<&Path>,
        log: &Path,
        cpus: Cpus,
    ) -> Result<Self, String> {
        let name = Path::new(command.get_program()).display().to_string();
        let errors = File::create(log).map_err(|e| format!("{}: {e}", log.display()))?;
        let output = match signal {
            Signal::Line => Stdio::piped(),
            Signal::Accepts(_) => errors.try_clone().map_err(|e| format!("log: {e}"))?.into(),
        };
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let mut child = cpus
            .on_server(|| command.spawn())?
            .map_err(|error| format!("cannot start {name}: {error}"))?;
        let output = child.stdout.take().map(BufReader::new);
        let mut server = Self {
            child,
            endpoint: Endpoint::Unix(PathBuf::new()),
            log: log.to_owned(),
            output: None,
            far: None,
            broker: None,
        };
        let found = match (signal, output) {
            (Signal::Line, Some(mut output)) => {
                let found = read_address(&mut output, unix);
                server.output = Some(output);
                found
            }
            (Signal::Accepts(endpoint), _) => server.until_it_accepts(endpoint),
            (Signal::Line, None) => None,
        };
        server.endpoint = found.ok_or_else(|| match server.last_words() {
            words if words.is_empty() => format!("{name} does not listen, and says nothing"),
            words => format!("{name} does not listen; it said: {words}"),
        })?;
        Ok(server)
    }

    /// Returns the address for workers and subscribers.
    pub(crate) fn far(&self) -> &Endpoint {
        self.far.as_ref().map_or(&self.endpoint, |far| &far.endpoint)
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Returns the end of its log.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }

    fn until_it_accepts(&mut self, endpoint: Endpoint) -> Option<Endpoint> {
        let begin = Instant::now();
        while begin.elapsed() < START_MAX && matches!(self.child.try_wait(), Ok(None)) {
            let accepts = match &endpoint {
                Endpoint::Tcp(address) => TcpStream::connect(address).is_ok(),
                Endpoint::Unix(path) => path.exists(),
            };
            if accepts {
                return Some(endpoint);
            }
            thread::sleep(Duration::from_millis(5));
        }
        None
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Endpoint::Unix(path) = &self.endpoint {
            let _ = fs::remove_file(path);
        }
    }
}

/// Returns the first IPv4 address, or the Unix socket if one is wanted.
fn read_address(output: &mut impl BufRead, unix: Option<&Path>) -> Option<Endpoint> {
    let mut line = String::new();
    while output.read_line(&mut line).ok()? > 0 {
        if let Some(address) = line.trim_end().strip_prefix("listening on ") {
            match (unix, address.parse::<SocketAddr>()) {
                (Some(path), Err(_)) => return Some(Endpoint::Unix(path.to_owned())),
                (None, Ok(address)) if address.is_ipv4() => return Some(Endpoint::Tcp(address)),
                _ => {}
            }
        }
        line.clear();
    }
    None
}

/// Returns a port that is free at the moment.
pub(super) fn free_port() -> Result<SocketAddr, String> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|error| format!("no free port: {error}"))
}
