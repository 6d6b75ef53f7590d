//! What signals ask of a running server.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::mpsc;

use ipc_framework::{Context, Handle};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use super::super::Failure;
use super::histograms;

/// The first SIGINT or SIGTERM drains, the second ends at once. SIGUSR1 writes counters and
/// latencies to standard error, SIGUSR2 does so and empties the latencies.
pub(super) fn watch(handle: Handle) -> Result<(), Failure> {
    let cannot = |error: io::Error| Failure::runtime(format!("cannot watch for signals: {error}"));
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGUSR1, SIGUSR2]).map_err(cannot)?;
    // The loop may be busy, and standard error may not be read: whoever waits for them must
    // not be the one who ends the server.
    let (asked, reports) = mpsc::sync_channel(1);
    let reported = handle.clone();
    let report = move || reports.iter().for_each(|signal| report(&reported, signal));
    std::thread::Builder::new().name("reports".to_owned()).spawn(report).map_err(cannot)?;
    let watch = move || {
        let mut draining = false;
        for signal in signals.forever() {
            match signal {
                SIGUSR1 | SIGUSR2 => drop(asked.try_send(signal)),
                _ if draining => std::process::exit(128 + signal),
                _ => {
                    draining = true;
                    handle.stop();
                }
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(watch).map_err(cannot)?;
    Ok(())
}

fn report(handle: &Handle, signal: i32) {
    // There is nobody to tell that nobody reads it.
    let _ = io::stderr().write_all(table(handle).as_bytes());
    if signal == SIGUSR2 {
        // A server that has ended has nothing to empty.
        let _ = handle.with(|context: &mut Context<'_>| context.reset_latencies());
    }
}

/// Counters and latencies as a table.
fn table(handle: &Handle) -> String {
    let asked = handle.stats().and_then(|stats| Ok((stats, histograms::copy(handle)?)));
    let (stats, histograms) = match asked {
        Ok(asked) => asked,
        Err(error) => return format!("{error}\n"),
    };
    let mut text = format!(
        "{} connections, {} applications, {} channels, {} pending requests, {} buffered bytes, up \
         {:.0} s\n",
        stats.total_connections,
        stats.total_applications,
        stats.total_channels,
        stats.pending_requests,
        stats.buffered_bytes,
        stats.uptime_seconds
    );
    // Plain counters always serialize, and text takes whatever is written to it.
    if let Ok(serde_json::Value::Object(counters)) = serde_json::to_value(&stats.counters) {
        for (name, value) in counters {
            let _ = writeln!(text, "{name:24} {value}");
        }
    }
    let _ = writeln!(
        text,
        "{:40} {:12} {:>10} {:>9} {:>9} {:>9} {:>9}",
        "latency in µs", "", "count", "p50", "p99", "p99.9", "max"
    );
    for (subject, nanos) in histograms::by_subject(&histograms) {
        // Ids are the peers' choice: shown escaped, so that they write no lines of their own.
        let name = format!("{}/{}", subject.application, subject.channel);
        let name = name.escape_debug();
        let micros = |nanos: u64| nanos as f64 / 1_000.0;
        let at = |quantile| micros(nanos.value_at_quantile(quantile));
        let _ = writeln!(
            text,
            "{name:40} {:12} {:>10} {:>9.1} {:>9.1} {:>9.1} {:>9.1}",
            subject.measure.as_str(),
            nanos.len(),
            at(0.5),
            at(0.99),
            at(0.999),
            micros(nanos.max())
        );
    }
    text
}
