//! NATS' own server, in the newest version and in Debian's.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::scratch::Scratch;
use crate::support::{HANG, eventually, reserved_port};

/// Which program is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Newest,
    Debian,
}

impl Version {
    pub(super) fn program(self) -> PathBuf {
        let (variable, places) = match self {
            Self::Newest => {
                let ours = concat!(env!("CARGO_MANIFEST_DIR"), "/target/nats/nats-server");
                ("IPC_TEST_NATS", vec![PathBuf::from(ours)])
            }
            Self::Debian => {
                let path = std::env::var_os("PATH").unwrap_or_default();
                let mut places: Vec<_> =
                    std::env::split_paths(&path).map(|place| place.join("nats-server")).collect();
                places.push("/usr/sbin/nats-server".into());
                ("IPC_TEST_NATS_DEBIAN", places)
            }
        };
        let named = std::env::var_os(variable).map(PathBuf::from);
        let found = named.into_iter().chain(places).find(|place| place.is_file());
        found.unwrap_or_else(|| {
            panic!(
                "nats-server ({self:?}) is missing: run tests/nats-server, or name it in {variable}"
            )
        })
    }
}

/// A running server, which is killed in the end.
pub(super) struct NatsServer {
    version: Version,
    settings: String,
    pub(super) port: u16,
    child: Option<Child>,
    scratch: Scratch,
}

impl NatsServer {
    pub(super) fn start() -> Self {
        Self::start_with(Version::Newest, "")
    }

    /// Starts a server with lines of its configuration file.
    pub(super) fn start_with(version: Version, settings: &str) -> Self {
        let mut server = Self::stopped(version, settings);
        server.restart();
        server
    }

    /// Returns a server that has a port and has not been started.
    pub(super) fn stopped(version: Version, settings: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            version,
            settings: settings.to_owned(),
            port: reserved_port(),
            child: None,
            scratch: Scratch::new(&format!("nats-server-{number}")),
        }
    }

    /// Starts it on the same port as before, and waits until it greets.
    pub(super) fn restart(&mut self) {
        let mut text = format!("listen: \"127.0.0.1:{}\"\n", self.port);
        writeln!(text, "{}", self.settings).unwrap();
        let file = self.scratch.file("nats.conf", 0o600, &text);
        let mut command = Command::new(self.version.program());
        command.args(["-c", &file, "-l"]).arg(self.log());
        self.child = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        eventually("a greeting of NATS", || {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none(), "{}", std::fs::read_to_string(self.log()).unwrap_or_default());
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
            stream.set_read_timeout(Some(HANG)).unwrap();
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).ok()?;
            line.starts_with("INFO ").then_some(())
        });
    }

    fn log(&self) -> PathBuf {
        Path::new(&self.scratch.0).join("log")
    }

    pub(super) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Ends it without another word, as a lost machine does.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Sends a signal, such as STOP, CONT or TERM.
    pub(super) fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
