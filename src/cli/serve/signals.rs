//! Signals to a running server.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::mpsc::{self, SyncSender};

use ipc_framework::{Context, Handle};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use super::{crash, histograms, logging, service_manager};

/// The first SIGINT or SIGTERM drains, the second ends at once. SIGHUP calls `reload`. SIGUSR1
/// writes counters and latencies to standard error, SIGUSR2 does so and empties the latencies.
pub(super) fn watch(handle: Handle, mut reload: impl FnMut() + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2])?;
    // The thread that ends the server must not wait for a busy loop, for the reader of standard
    // error, or for a disk.
    let reported = handle.clone();
    let report = on_own_thread("reports", move |signal| report(&reported, signal))?;
    let reload = on_own_thread("reload", move |_| reload())?;
    let watch = move || {
        let mut draining = false;
        for signal in signals.forever() {
            match signal {
                SIGHUP if draining => tracing::warn!("a server that ends reads no settings"),
                SIGHUP => drop(reload.try_send(signal)),
                SIGUSR1 | SIGUSR2 => drop(report.try_send(signal)),
                _ if draining => {
                    logging::finish();
                    std::process::exit(128 + signal)
                }
                _ => {
                    draining = true;
                    handle.stop();
                    service_manager::stopping();
                }
            }
        }
    };
    crash::spawn("signals", watch).map(drop)
}

/// Starts a thread that handles signals of one kind. One signal may wait while another is handled.
fn on_own_thread(
    name: &str,
    mut act: impl FnMut(i32) + Send + 'static,
) -> io::Result<SyncSender<i32>> {
    let (asked, signals) = mpsc::sync_channel(1);
    let run = move || signals.iter().for_each(&mut act);
    crash::spawn(name, run)?;
    Ok(asked)
}

fn report(handle: &Handle, signal: i32) {
    // If standard error is closed there is nobody to tell.
    let _ = io::stderr().write_all(table(handle).as_bytes());
    if signal == SIGUSR2 {
        // A server that has ended has no latencies to reset.
        let _ = handle.with(|context: &mut Context<'_>| context.reset_latencies());
    }
}

/// Returns counters and latencies as a table.
fn table(handle: &Handle) -> String {
    let asked = handle.stats().and_then(|stats| Ok((stats, histograms::copy(handle)?)));
    let (stats, histograms) = match asked {
        Ok(asked) => asked,
        Err(error) => return format!("{error}\n"),
    };
    let mut text = format!(
        "{} connections, {} applications, {} channels, {} pending requests, {} buffered bytes, {} \
         bytes of memory, up {:.0} s\n",
        stats.total_connections,
        stats.total_applications,
        stats.total_channels,
        stats.pending_requests,
        stats.buffered_bytes,
        stats.memory_bytes,
        stats.uptime_seconds
    );
    // Counters always serialize, and writing to a string cannot fail.
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
        // Peers choose the ids, so these are escaped and cannot forge lines.
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
