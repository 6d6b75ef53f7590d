//! Signals to a running server.

use std::io;
use std::sync::mpsc::{self, SyncSender};

use ipc_framework::{Context, Handle, Stats};
use serde_json::Value;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use super::histograms::{self, Copied};
use super::rate_limit::REPORT;
use super::{crash, log_queue, logging, service_manager};

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

/// Writes counters and latencies in the format of the log, each as an event.
fn report(handle: &Handle, signal: i32) {
    // This thread may wait for the reader of standard error.
    log_queue::bypass();
    let asked = handle.stats().and_then(|stats| Ok((stats, histograms::copy(handle)?)));
    match asked {
        Ok((stats, histograms)) => {
            report_stats(&stats);
            report_latencies(&histograms);
        }
        Err(error) => tracing::info!(target: REPORT, %error, "there are no statistics"),
    }
    if signal == SIGUSR2 {
        // A server that has ended has no latencies to reset.
        let _ = handle.with(|context: &mut Context<'_>| context.reset_latencies());
    }
}

fn report_stats(stats: &Stats) {
    tracing::info!(
        target: REPORT,
        connections = stats.total_connections,
        applications = stats.total_applications,
        channels = stats.total_channels,
        pending_requests = stats.pending_requests,
        kept_requests = stats.kept_requests,
        buffered_bytes = stats.buffered_bytes,
        memory_bytes = stats.memory_bytes,
        uptime_seconds = stats.uptime_seconds,
        draining = !stats.running,
        "statistics"
    );
    // Counters always serialize.
    let Ok(Value::Object(counters)) = serde_json::to_value(&stats.counters) else { return };
    for (name, value) in counters {
        match value {
            // Such as the errors by their codes.
            Value::Object(kinds) => kinds.iter().for_each(|(kind, value)| {
                tracing::info!(target: REPORT, name, kind, value = value.as_u64(), "counter");
            }),
            value => tracing::info!(target: REPORT, name, value = value.as_u64(), "counter"),
        }
    }
}

fn report_latencies(histograms: &[Copied]) {
    for (subject, nanos) in histograms::by_subject(histograms) {
        let micros = |nanos: u64| nanos as f64 / 1_000.0;
        let at = |quantile| micros(nanos.value_at_quantile(quantile));
        tracing::info!(
            target: REPORT,
            application = subject.application,
            channel = subject.channel,
            measure = subject.measure.as_str(),
            count = nanos.len(),
            p50_us = at(0.5),
            p99_us = at(0.99),
            p999_us = at(0.999),
            max_us = micros(nanos.max()),
            "latency"
        );
    }
}
