//! The plots, as SVG that takes its colours from the page.

use maud::{Markup, html};

use super::summary::number;
use crate::figures::Summary;

/// A line of a plot: its name and its points, as quantile and microseconds.
#[derive(Debug)]
pub(super) struct Curve<'a> {
    pub(super) name: &'a str,
    pub(super) points: &'a [(f64, f64)],
}

/// A bar of a plot.
#[derive(Debug)]
pub(super) struct Bar<'a> {
    pub(super) name: &'a str,
    pub(super) value: Summary,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;
/// Five nines: beyond them a run has no samples.
const DECADES_MAX: f64 = 5.0;

const BAR_HEIGHT: f64 = 20.0;
const BAR_STEP: f64 = 30.0;
const BAR_LEFT: f64 = 120.0;
const BAR_RIGHT: f64 = 190.0;

/// The colours of the page by entrant; a Unix socket is drawn dashed in the same.
fn class(name: &str) -> &'static str {
    match name.split('-').next().unwrap_or_default() {
        "ipc" if name == "ipc-idle" || name == "ipc-spin" => "other",
        "ipc" => "ipc",
        "bare" if name == "bare-read" || name == "bare-frames" => "floor",
        "bare" => "bare",
        "redis" => "redis",
        "nats" => "nats",
        "zeromq" => "zeromq",
        _ => "published",
    }
}

fn line_class(name: &str) -> String {
    let dash = if name.ends_with("-unix") { " dashed" } else { "" };
    format!("line {}{dash}", class(name))
}

/// Where a quantile lies: each nine is as wide as the one before.
fn decades(quantile: f64) -> f64 {
    (1.0 / (1.0 - quantile).max(1e-9)).log10()
}

/// Latency by percentile.
pub(super) fn latency(curves: &[Curve<'_>]) -> Markup {
    let curves: Vec<(&str, Vec<(f64, f64)>)> = curves
        .iter()
        .map(|curve| {
            let points =
                curve.points.iter().map(|(quantile, micros)| (decades(*quantile), *micros));
            (curve.name, points.filter(|(x, y)| *x <= DECADES_MAX && *y > 0.0).collect())
        })
        .collect();
    let all = || curves.iter().flat_map(|(_, points)| points.iter());
    let x_max = all().map(|(x, _)| *x).fold(1.0, f64::max);
    let low = all().map(|(_, y)| *y).fold(f64::INFINITY, f64::min);
    let high = all().map(|(_, y)| *y).fold(0.0, f64::max);
    let (bottom, top) = (low.log10().floor(), high.log10().ceil().max(low.log10().floor() + 1.0));
    let x = |decade: f64| LEFT + decade / x_max * (WIDTH - LEFT - RIGHT);
    let y = |micros: f64| TOP + (top - micros.log10()) / (top - bottom) * (HEIGHT - TOP - BOTTOM);
    let path = |points: &[(f64, f64)]| {
        let points = points.iter().map(|(at, micros)| format!("{:.1},{:.1}", x(*at), y(*micros)));
        points.collect::<Vec<_>>().join(" ")
    };
    let view = format!("0 0 {WIDTH} {HEIGHT}");
    let powers = bottom as i32..=top as i32;
    html! {
        svg viewBox=(view) role="img" aria-label="latency by percentile" {
            @for power in powers.clone() {
                @let at = y(10_f64.powi(power));
                line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(at) y2=(at);
                text.tick x=(LEFT - 8.0) y=(at + 4.0) text-anchor="end" { (micros(power)) }
            }
            @for power in powers.clone().take(powers.count().saturating_sub(1)) {
                @for digit in 2..10 {
                    @let at = y(f64::from(digit) * 10_f64.powi(power));
                    line.fine x1=(LEFT) x2=(WIDTH - RIGHT) y1=(at) y2=(at);
                }
            }
            @for (quantile, label) in TICKS.iter().filter(|(q, _)| decades(*q) <= x_max + 0.01) {
                @let at = x(decades(*quantile));
                line.grid x1=(at) x2=(at) y1=(TOP) y2=(HEIGHT - BOTTOM);
                text.tick x=(at) y=(HEIGHT - BOTTOM + 18.0) text-anchor="middle" { (label) }
            }
            text.axis x=((LEFT + WIDTH - RIGHT) / 2.0) y=(HEIGHT - 6.0) text-anchor="middle" {
                "percentile of requests"
            }
            // The server under test is drawn last, on top.
            @for (name, points) in curves.iter().rev() {
                polyline class=(line_class(name)) points=(path(points)) {
                    title { (name) }
                }
            }
        }
        (legend(&curves.iter().map(|(name, _)| *name).collect::<Vec<_>>()))
    }
}

const TICKS: [(f64, &str); 7] = [
    (0.0, "0 %"),
    (0.5, "50 %"),
    (0.9, "90 %"),
    (0.99, "99 %"),
    (0.999, "99.9 %"),
    (0.9999, "99.99 %"),
    (0.99999, "99.999 %"),
];

fn micros(power: i32) -> String {
    match power {
        ..0 => format!("{} ns", 10_u64.pow((power + 3).max(0) as u32)),
        0..3 => format!("{} µs", 10_u64.pow(power as u32)),
        3..6 => format!("{} ms", 10_u64.pow(power as u32 - 3)),
        _ => format!("{} s", 10_u64.pow(power as u32 - 6)),
    }
}

fn legend(names: &[&str]) -> Markup {
    html! {
        p.legend {
            @for name in names {
                span {
                    svg.key viewBox="0 0 28 10" aria-hidden="true" {
                        line class=(line_class(name)) x1="1" x2="27" y1="5" y2="5";
                    }
                    (name)
                }
            }
        }
    }
}

/// Bars from zero, with a whisker from the least to the most.
pub(super) fn bars(bars: &[Bar<'_>], unit: &str) -> Markup {
    let most = bars.iter().map(|bar| bar.value.max).fold(f64::MIN_POSITIVE, f64::max);
    let scale = |value: f64| value / most * (WIDTH - BAR_LEFT - BAR_RIGHT);
    let height = BAR_STEP * bars.len() as f64 + 4.0;
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label=(unit) {
            @for (at, bar) in bars.iter().enumerate() {
                @let y = at as f64 * BAR_STEP + 4.0;
                @let middle = y + BAR_HEIGHT / 2.0;
                @let (least, most) = (BAR_LEFT + scale(bar.value.min), BAR_LEFT + scale(bar.value.max));
                text.label x=(BAR_LEFT - 10.0) y=(middle + 4.0) text-anchor="end" { (bar.name) }
                rect class=(format!("bar {}", class(bar.name))) x=(BAR_LEFT) y=(y)
                    width=(format!("{:.1}", scale(bar.value.median))) height=(BAR_HEIGHT) rx="2" {}
                line.whisker x1=(format!("{least:.1}")) x2=(format!("{most:.1}"))
                    y1=(middle) y2=(middle);
                text.value x=(format!("{:.1}", most + 8.0)) y=(middle + 4.0) {
                    (number(bar.value.median)) " " (unit)
                }
            }
        }
    }
}
