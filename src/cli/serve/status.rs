//! The status page, and the document with the numbers that it shows.

use hdrhistogram::Histogram;
use ipc_framework::{Handle, Measure, Stats};
use serde::Serialize;

use super::channels::{self, Numbers};
use super::histograms::{self, Subject};

/// The page. It loads nothing but `/status.json`, and is the only file.
const PAGE: &str = include_str!("status.html");
/// Stands for the nonce in the page.
const NONCE: &str = "{nonce}";
const NONCE_BYTES: usize = 16;

/// Returns the page and its content security policy, which admits the script and the style of this
/// answer and nothing else.
pub(super) fn page() -> Result<(String, String), String> {
    let mut random = [0; NONCE_BYTES];
    getrandom::fill(&mut random).map_err(|error| error.to_string())?;
    let nonce = format!("{:032x}", u128::from_ne_bytes(random));
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    Ok((PAGE.replace(NONCE, &nonce), policy))
}

/// The numbers of `ipc top`, for all applications.
#[derive(Serialize)]
struct Status {
    #[serde(flatten)]
    stats: Stats,
    channels: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    application: String,
    channel: String,
    #[serde(flatten)]
    numbers: Numbers,
    request: Option<Latency>,
    publication: Option<Latency>,
}

/// Latencies since the start or the last reset, in microseconds.
#[derive(Serialize)]
struct Latency {
    count: u64,
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
}

impl Latency {
    fn of(nanos: &Histogram<u32>) -> Self {
        let micros = |nanos: u64| nanos as f64 / 1_000.0;
        Self {
            count: nanos.len(),
            p50_us: micros(nanos.value_at_quantile(0.5)),
            p99_us: micros(nanos.value_at_quantile(0.99)),
            max_us: micros(nanos.max()),
        }
    }
}

/// Returns the document, or the reason why there is none.
pub(super) fn document(handle: &Handle) -> Result<String, String> {
    let stats = handle.stats().map_err(|error| error.to_string())?;
    let channels =
        channels::copy(handle, channels::CHANNELS_MAX).map_err(|error| error.to_string())?;
    let copied = histograms::copy(handle).map_err(|error| error.to_string())?;
    let latencies = histograms::by_subject(&copied);
    let rows = channels.into_iter().map(|((application, channel), numbers)| {
        let mut subject = Subject { application, channel, measure: Measure::Request };
        let request = latencies.get(&subject).map(Latency::of);
        subject.measure = Measure::Publication;
        let publication = latencies.get(&subject).map(Latency::of);
        let Subject { application, channel, .. } = subject;
        Row { application, channel, numbers, request, publication }
    });
    let numbers = Status { stats, channels: rows.collect() };
    serde_json::to_string(&numbers).map_err(|error| error.to_string())
}
