//! Measures the parts by the clock: `cargo bench --features tls --bench timing [-- FILTER]`.
//!
//! This compares two versions on one quiet machine. CI checks the instruction counts of the same
//! scenarios, which a busy machine does not change.

#[path = "../scenarios/mod.rs"]
mod scenarios;

use std::time::Duration;

use criterion::{Criterion, Throughput};

use scenarios::Work;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for scenario in scenarios::all() {
        let (group, name) = scenario.name.split_once('/').expect("group/name");
        let mut group = criterion.benchmark_group(group);
        group.throughput(match scenario.work {
            Work::Bytes(bytes) => Throughput::Bytes(bytes as u64),
            Work::Frames(frames) => Throughput::Elements(frames as u64),
        });
        group.bench_function(name, |bencher| {
            let mut round = scenario.set_up();
            bencher.iter(&mut round);
        });
    }
    criterion.final_summary();
}
