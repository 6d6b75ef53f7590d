//! `--metrics`: a small HTTP server for scrapes, health checks and the status page.
//!
//! Each request has a thread and a deadline, and asks the loop for a few short copies. At most 4
//! requests are answered at a time; a fifth replaces the one that has been silent longest.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipc_framework::Handle;

use super::exposition::Format;
use super::health::{Health, Pulse};
use super::metrics::{self, Metrics};
use super::{crash, status};
use crate::cli::failure::Failure;

/// Requests answered at a time. With many channels each answer may have several megabytes.
const PLACES: usize = 4;
/// Time for a client to send its request and read the answer.
const DEADLINE: Duration = Duration::from_secs(2);
/// Limit of a request's head, ten times what Prometheus sends.
const HEAD_BYTES_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;
/// Pause after an accept error, which repeating at once would not mend.
const RETRY_AFTER: Duration = Duration::from_millis(100);
const PLAIN: &str = "text/plain; charset=utf-8";

/// Answers requests at `http://ADDRESS/`. Returns the address, with the port the system chose for 0.
pub(super) fn start(address: &str, handle: Handle, channels_max: usize) -> Result<String, Failure> {
    let cannot = |error: io::Error| {
        Failure::runtime(format!(
            "cannot answer scrapes on {address}: {error}; choose another --metrics address"
        ))
    };
    let listener = TcpListener::bind(address).map_err(cannot)?;
    let bound = listener.local_addr().map_err(cannot)?;
    let visits = Arc::new(Visits {
        pulse: Pulse::new(handle.clone()),
        metrics: Metrics::new(channels_max),
        handle,
        is_loopback: bound.ip().is_loopback(),
        places: Mutex::default(),
        left: Condvar::new(),
    });
    let serve = move || -> () {
        loop {
            if let Err(error) = listener.accept().and_then(|(stream, _)| visits.admit(stream)) {
                tracing::warn!(%error, "a scrape could not be accepted");
                std::thread::sleep(RETRY_AFTER);
            }
        }
    };
    crash::spawn("metrics", serve).map_err(cannot)?;
    Ok(bound.to_string())
}

/// The requests that are being answered.
struct Visits {
    handle: Handle,
    pulse: Pulse,
    metrics: Metrics,
    /// Other machines cannot reach the address.
    is_loopback: bool,
    /// Ordered by their arrival.
    places: Mutex<Vec<Place>>,
    left: Condvar,
}

struct Place {
    stream: Arc<TcpStream>,
    /// Set when its request has come.
    asked: bool,
}

impl Visits {
    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        // The lock is never poisoned, because a panic ends the process.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a connection as soon as there is a place.
    fn admit(self: &Arc<Self>, stream: TcpStream) -> io::Result<()> {
        let stream = Arc::new(stream);
        let mut places = self.places();
        while places.len() >= PLACES {
            if let Some(silent) = places.iter().find(|place| !place.asked) {
                // Its thread notices that, and leaves its place.
                let _ = silent.stream.shutdown(Shutdown::Both);
            }
            places = self.left.wait(places).unwrap_or_else(PoisonError::into_inner);
        }
        places.push(Place { stream: stream.clone(), asked: false });
        drop(places);
        let (visits, visit) = (self.clone(), stream.clone());
        let run = move || {
            // The client may have gone away or be too slow; it will ask again.
            let _ = visits.answer(&visit);
            visits.leave(&visit);
        };
        crash::spawn("metrics", run).map(drop).inspect_err(|_| self.leave(&stream))
    }

    fn leave(&self, stream: &Arc<TcpStream>) {
        self.places().retain(|place| !Arc::ptr_eq(&place.stream, stream));
        self.left.notify_one();
    }

    fn answer(&self, stream: &Arc<TcpStream>) -> io::Result<()> {
        let deadline = Instant::now() + DEADLINE;
        let asked = read_request(stream, deadline)?;
        for place in self.places().iter_mut().filter(|place| Arc::ptr_eq(&place.stream, stream)) {
            place.asked = true;
        }
        let is_head = asked.as_ref().is_some_and(|asked| asked.is_head);
        let answer = match &asked {
            None => Answer::plain("400 Bad Request", "this is no HTTP request for a page\n"),
            Some(asked) => self.answer_to(asked),
        };
        answer.write(stream, is_head, deadline)
    }

    fn answer_to(&self, asked: &Asked) -> Answer {
        let health = match asked.path.as_str() {
            "/" | "/healthz" | "/metrics" | "/status.json" => self.pulse.feel(),
            _ => {
                let text = "there are /, /status.json, /metrics and /healthz\n";
                return Answer::plain("404 Not Found", text);
            }
        };
        if asked.path == "/healthz" {
            return Answer::plain(status_line(health), health.sentence());
        }
        if self.is_loopback && asked.names_another_host() {
            let text = "use the address of --metrics, or localhost\n";
            return Answer::plain("421 Misdirected Request", text);
        }
        if asked.path == "/" {
            // The page shows that a server does not answer.
            return status::page().map_or_else(Answer::unavailable, |(body, policy)| Answer {
                policy: Some(policy),
                ..Answer::new("200 OK", "text/html; charset=utf-8", body)
            });
        }
        if health == Health::Stuck {
            return Answer::plain(status_line(health), health.sentence());
        }
        let made = if asked.path == "/metrics" {
            let format = asked.format;
            let text = metrics::open_metrics(&self.handle, &self.metrics);
            text.map(|text| Answer::new("200 OK", format.content_type(), format.of(text)))
        } else {
            let text = status::document(&self.handle);
            text.map(|text| Answer::new("200 OK", "application/json", text))
        };
        made.unwrap_or_else(Answer::unavailable)
    }
}

fn status_line(health: Health) -> &'static str {
    match health {
        Health::Ready => "200 OK",
        Health::Draining | Health::Stuck => "503 Service Unavailable",
    }
}

/// A request.
struct Asked {
    path: String,
    /// The answer's head alone is wanted.
    is_head: bool,
    format: Format,
    host: Option<String>,
}

impl Asked {
    /// Returns whether the client knows this address by a name that is not the machine's own. A web
    /// page whose name resolves to this address could otherwise read it in the operator's browser (DNS
    /// rebinding).
    fn names_another_host(&self) -> bool {
        let Some(host) = &self.host else { return false };
        let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((ip, _)) => ip,
            None => host.rsplit_once(':').map_or(&**host, |(name, _)| name),
        };
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let is_own = name == "localhost" || name.ends_with(".localhost");
        !is_own && name.parse::<IpAddr>().is_err()
    }
}

struct Answer {
    status: &'static str,
    content_type: &'static str,
    body: String,
    /// The content security policy of a page.
    policy: Option<String>,
}

impl Answer {
    fn new(status: &'static str, content_type: &'static str, body: String) -> Self {
        Self { status, content_type, body, policy: None }
    }

    fn plain(status: &'static str, body: &str) -> Self {
        Self::new(status, PLAIN, body.to_owned())
    }

    fn unavailable(why: String) -> Self {
        Self::new("503 Service Unavailable", PLAIN, why + "\n")
    }

    fn write(&self, stream: &TcpStream, is_head: bool, deadline: Instant) -> io::Result<()> {
        let Self { status, content_type, body, policy } = self;
        let length = body.len();
        let policy = policy.as_ref().map_or_else(String::new, |policy| {
            format!("Content-Security-Policy: {policy}\r\nReferrer-Policy: no-referrer\r\n")
        });
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n{policy}\
             Connection: close\r\n\r\n"
        );
        write_all(stream, head.as_bytes(), deadline)?;
        if is_head { Ok(()) } else { write_all(stream, body.as_bytes(), deadline) }
    }
}

fn write_all(mut stream: &TcpStream, mut rest: &[u8], deadline: Instant) -> io::Result<()> {
    while !rest.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(Some(left))?;
        let written = stream.write(rest)?;
        rest = &rest[written..];
    }
    Ok(())
}

/// Reads a request; `None` if it is neither a GET nor a HEAD request.
fn read_request(mut stream: &TcpStream, deadline: Instant) -> io::Result<Option<Asked>> {
    let mut head = Vec::new();
    let mut chunk = [0; 1_024];
    loop {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&head) {
            Ok(httparse::Status::Complete(_)) => return Ok(asked(&request)),
            Ok(httparse::Status::Partial) if head.len() < HEAD_BYTES_MAX => {}
            _ => return Ok(None),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => head.extend_from_slice(&chunk[..bytes]),
        }
    }
}

fn asked(request: &httparse::Request<'_, '_>) -> Option<Asked> {
    let is_head = match request.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return None,
    };
    let path = request.path.unwrap_or_default();
    let path = path.split_once('?').map_or(path, |(path, _)| path).to_owned();
    let values = |name: &'static str| {
        let named = move |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case(name);
        let headers = request.headers.iter().filter(named);
        headers.map(|header| String::from_utf8_lossy(header.value).into_owned())
    };
    // Several headers of that name are one list.
    let format = Format::accepted(&values("accept").collect::<Vec<_>>().join(","));
    let host = values("host").next();
    Some(Asked { path, is_head, format, host })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine_are_told_from_others() {
        let asked = |host: Option<&str>| Asked {
            path: "/".to_owned(),
            is_head: false,
            format: Format::Text,
            host: host.map(str::to_owned),
        };
        for own in ["localhost", "LOCALHOST:9090", "127.0.0.1:9090", "[::1]:9090", "a.localhost."] {
            assert!(!asked(Some(own)).names_another_host(), "{own}");
        }
        assert!(!asked(None).names_another_host());
        for other in ["evil.example", "evil.example:9090", "localhost.evil.example", "", "[x"] {
            assert!(asked(Some(other)).names_another_host(), "{other}");
        }
    }
}
