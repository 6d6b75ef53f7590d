//! `--metrics`: counters and latencies for Prometheus, in the text format that a scrape asks for.
//!
//! Each scrape has a thread and a deadline, and asks the loop for a few short copies. At most 4
//! scrapes are answered at a time; a fifth replaces the one that has been silent longest.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ipc_framework::{Handle, Stats};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::channels::{self, Channels, Numbers};
use super::crash;
use super::exposition::Format;
use super::histograms::{self, Copied};
use crate::cli::failure::Failure;

/// Scrapes answered at a time. With many channels each answer may have several megabytes.
const PLACES: usize = 4;
/// Time for a scraper to send its request and read the answer.
const DEADLINE: Duration = Duration::from_secs(2);
/// Limit of a request's head, ten times what Prometheus sends.
const HEAD_BYTES_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;
/// Pause after an accept error, which repeating at once would not mend.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// The type of exemplars' labels; there are none.
type NoLabels = [(&'static str, &'static str); 0];
/// Upper bounds of the buckets in nanoseconds: 1, 2, 5 per decade from 1 µs to 10 s.
const BUCKET_NANOS: [u64; 22] = [
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
];
const NANOS_PER_SECOND: f64 = 1e9;

/// Answers scrapes at `http://ADDRESS/metrics`. Returns the address, with the port the system
/// chose for 0.
pub(super) fn start(address: &str, handle: Handle) -> Result<String, Failure> {
    let cannot = |error: io::Error| {
        Failure::runtime(format!(
            "cannot answer scrapes on {address}: {error}; choose another --metrics address"
        ))
    };
    let listener = TcpListener::bind(address).map_err(cannot)?;
    let bound = listener.local_addr().map_err(cannot)?.to_string();
    let scrapes = Arc::new(Scrapes { handle, places: Mutex::default(), left: Condvar::new() });
    let serve = move || -> () {
        loop {
            if let Err(error) = listener.accept().and_then(|(stream, _)| scrapes.admit(stream)) {
                tracing::warn!(%error, "a scrape could not be accepted");
                std::thread::sleep(RETRY_AFTER);
            }
        }
    };
    crash::spawn("metrics", serve).map_err(cannot)?;
    Ok(bound)
}

/// The scrapes that are being answered.
struct Scrapes {
    handle: Handle,
    /// Ordered by their arrival.
    places: Mutex<Vec<Place>>,
    left: Condvar,
}

struct Place {
    stream: Arc<TcpStream>,
    /// Set when its request has come.
    asked: bool,
}

impl Scrapes {
    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        // The lock is never poisoned, because a panic ends the process.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a scrape as soon as there is a place.
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
        let (scrapes, scrape) = (self.clone(), stream.clone());
        let run = move || {
            // The scraper may have gone away or be too slow; it will ask again.
            let _ = scrapes.answer(&scrape);
            scrapes.leave(&scrape);
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
        answer(stream, asked.as_ref(), &self.handle, deadline)
    }
}

/// A request of a scraper.
struct Asked {
    path: String,
    format: Format,
}

fn answer(
    stream: &TcpStream,
    asked: Option<&Asked>,
    handle: &Handle,
    deadline: Instant,
) -> io::Result<()> {
    let (status, content_type, body) = match asked {
        None => ("400 Bad Request", "text/plain", "this is no HTTP request\n".to_owned()),
        Some(Asked { path, format }) if path == "/metrics" => match scrape(handle) {
            Ok(text) => ("200 OK", format.content_type(), format.of(text)),
            Err(error) => ("503 Service Unavailable", "text/plain", format!("{error}\n")),
        },
        Some(_) => ("404 Not Found", "text/plain", "metrics are at /metrics\n".to_owned()),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    write_all(stream, head.as_bytes(), deadline)?;
    write_all(stream, body.as_bytes(), deadline)
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

/// Reads a request; `None` if it is not a GET request.
fn read_request(mut stream: &TcpStream, deadline: Instant) -> io::Result<Option<Asked>> {
    let mut head = Vec::new();
    let mut chunk = [0; 1_024];
    loop {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&head) {
            Ok(httparse::Status::Complete(_)) => {
                let path = request.path.unwrap_or_default();
                let path = path.split_once('?').map_or(path, |(path, _)| path);
                let is_accept =
                    |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case("accept");
                // Several headers of that name are one list.
                let accepts = request.headers.iter().filter(is_accept);
                let accepts: Vec<_> =
                    accepts.map(|header| String::from_utf8_lossy(header.value)).collect();
                let format = Format::accepted(&accepts.join(","));
                return Ok((request.method == Some("GET"))
                    .then(|| Asked { path: path.to_owned(), format }));
            }
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

fn scrape(handle: &Handle) -> Result<String, String> {
    let stats = handle.stats().map_err(|error| error.to_string())?;
    let channels = channels::copy(handle).map_err(|error| error.to_string())?;
    let histograms = histograms::copy(handle).map_err(|error| error.to_string())?;
    let mut registry = Registry::with_prefix("ipc");
    registry.register_collector(Box::new(Snapshot { stats, channels, histograms }));
    let mut text = String::new();
    text::encode(&mut text, &registry).map_err(|error| error.to_string())?;
    Ok(text)
}

#[derive(Debug)]
struct Snapshot {
    stats: Stats,
    channels: Channels,
    histograms: Vec<Copied>,
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counters = &self.stats.counters;
        for (name, help, value) in [
            (
                "connections_accepted",
                "Connections accepted, the refused ones included",
                counters.accepted,
            ),
            ("connections_shed", "Connections closed for lack of descriptors", counters.shed),
            ("frames_received", "Whole frames received", counters.frames_in),
            ("received_bytes", "Bytes received", counters.bytes_in),
            ("frames_sent", "Frames put into queues", counters.frames_out),
            ("sent_bytes", "Bytes put into queues", counters.bytes_out),
            ("publications", "Publications, from peers and from inside", counters.publications),
            (
                "publications_unheard",
                "Publications without a subscriber",
                counters.publications_unheard,
            ),
            ("deliveries", "Publications times subscribers reached", counters.deliveries),
            ("forwarded", "Messages passed on to workers", counters.forwarded),
            (
                "notifications_unhandled",
                "Notifications that nothing handled",
                counters.notifications_unhandled,
            ),
            ("responses_ignored", "Responses that answer nothing", counters.responses_ignored),
            (
                "answers_undeliverable",
                "Answers whose requester had left",
                counters.answers_undeliverable,
            ),
            ("handler_failures", "Handlers that returned an error", counters.handler_failures),
            ("handler_panics", "Handlers and hooks that panicked", counters.handler_panics),
            ("publishers_held", "Messages held back for a slow reader", counters.publishers_held),
            (
                "slow_consumers",
                "Connections closed because they read too slowly",
                counters.slow_consumers,
            ),
            (
                "handshake_timeouts",
                "Connections closed because their handshake took too long",
                counters.handshake_timeouts,
            ),
            ("idle_closed", "Connections closed because they said nothing", counters.idle_closed),
            (
                "memory_refusals",
                "Connections, channels and subscriptions refused for lack of memory",
                counters.memory_refusals,
            ),
            (
                "memory_pauses",
                "Times a connection had to wait for lack of memory",
                counters.memory_pauses,
            ),
            (
                "memory_sheds",
                "Connections closed because they held the most memory",
                counters.memory_sheds,
            ),
            ("transport_failures", "Connections whose TLS failed", counters.transport_failures),
            ("wakeups", "Times the loop was woken from sleep", counters.wakeups),
            ("spins", "Polls without sleep that found nothing", counters.spins),
            ("yields", "Turns a connection gave up with frames left", counters.yields),
            ("ttls_over", "Requests whose own deadline was over first", counters.ttls_over),
            ("retried", "Requests that went to a second worker", counters.retried),
            ("stream_parts", "Parts of streams passed on", counters.stream_parts),
            (
                "credit_stalls",
                "Parts that used up the credit of their stream",
                counters.credit_stalls,
            ),
        ] {
            encoder
                .encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabels, u64, u64>(&value, None)?;
        }
        for (name, help, label, values) in [
            ("errors", "Error answers of the server and of workers", "code", &counters.errors),
            ("worker_errors", "Error answers of workers alone", "code", &counters.worker_errors),
            ("cancelled", "Requests that ended before an answer", "reason", &counters.cancelled),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (value_of_label, value) in values {
                family
                    .encode_family(&[(label, *value_of_label)])?
                    .encode_counter::<NoLabels, u64, u64>(value, None)?;
            }
        }
        self.encode_gauges(&mut encoder)?;
        self.encode_channels(&mut encoder)?;
        self.encode_latencies(encoder)
    }
}

impl Snapshot {
    fn encode_gauges(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, help, value) in [
            (
                "connections",
                "Connections that have completed their handshake",
                self.stats.total_connections,
            ),
            ("applications", "Applications known now", self.stats.total_applications),
            ("channels", "Channels known now", self.stats.total_channels),
            ("pending_requests", "Requests that wait for an answer", self.stats.pending_requests),
            (
                "kept_requests",
                "Requests that wait until a worker has room",
                self.stats.kept_requests,
            ),
            (
                "buffered_bytes",
                "Bytes held in queues and unfinished frames",
                self.stats.buffered_bytes,
            ),
            ("memory_bytes", "Memory that clients make the server hold", self.stats.memory_bytes),
            ("memory_bytes_max", "The limit on that", self.stats.max_memory),
        ] {
            encoder
                .encode_descriptor(name, help, None, MetricType::Gauge)?
                .encode_gauge(&(value as u64))?;
        }
        encoder
            .encode_descriptor(
                "uptime",
                "Time since the start",
                Some(&Unit::Seconds),
                MetricType::Gauge,
            )?
            .encode_gauge(&self.stats.uptime_seconds)
    }

    fn encode_channels(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let subscribers: fn(&Numbers) -> u64 = |numbers| numbers.subscribers;
        let workers: fn(&Numbers) -> u64 = |numbers| numbers.workers;
        for (name, help, of) in [
            ("channel_subscribers", "Connections that subscribe to a channel", subscribers),
            ("channel_workers", "Connections that serve a channel", workers),
        ] {
            let mut gauges = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for ((application, channel), numbers) in &self.channels {
                let labels = [("application", &**application), ("channel", &**channel)];
                gauges.encode_family(&labels)?.encode_gauge(&of(numbers))?;
            }
        }
        Ok(())
    }

    fn encode_latencies(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Where time goes inside the server, by measure";
        let unit = Some(&Unit::Seconds);
        let mut latencies =
            encoder.encode_descriptor("latency", help, unit, MetricType::Histogram)?;
        for (subject, histogram) in histograms::by_subject(&self.histograms) {
            let labels = [
                ("application", subject.application.as_str()),
                ("channel", subject.channel.as_str()),
                ("measure", subject.measure.as_str()),
            ];
            let sum = histogram.mean() * histogram.len() as f64 / NANOS_PER_SECOND;
            latencies.encode_family(&labels)?.encode_histogram::<NoLabels>(
                sum,
                histogram.len(),
                &buckets(&histogram),
                None,
            )?;
        }
        Ok(())
    }
}

/// Returns the counts between one bound and the next; the last one has no upper bound.
fn buckets(nanos: &Histogram<u32>) -> Vec<(f64, u64)> {
    let mut counts = [0; BUCKET_NANOS.len() + 1];
    for step in nanos.iter_recorded() {
        let nanos = nanos.lowest_equivalent(step.value_iterated_to());
        let at = BUCKET_NANOS.partition_point(|bound| *bound < nanos);
        counts[at] += step.count_since_last_iteration();
    }
    let bounds = BUCKET_NANOS.iter().map(|bound| *bound as f64 / NANOS_PER_SECOND);
    bounds.chain([f64::INFINITY]).zip(counts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_one_bucket() {
        let mut nanos = Histogram::<u32>::new_with_bounds(1, 3_600_000_000_000, 2).unwrap();
        for value in [1, 999, 1_500, 42_000, 9_999_999_999, 60_000_000_000] {
            nanos.record(value).unwrap();
        }
        let buckets = buckets(&nanos);
        assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), 6);
        assert_eq!((buckets[0].1, buckets.last().unwrap().1), (2, 1));
    }
}
