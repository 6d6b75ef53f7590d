//! The plots, as SVG that takes its colours from the page, or, as a file of its own, has them.

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
    let (bottom, top) = (round_down(low).log10(), round_up(high).log10());
    let x = |decade: f64| LEFT + decade / x_max * (WIDTH - LEFT - RIGHT);
    let y = |micros: f64| TOP + (top - micros.log10()) / (top - bottom) * (HEIGHT - TOP - BOTTOM);
    let path = |points: &[(f64, f64)]| {
        let points = points.iter().map(|(at, micros)| format!("{:.1},{:.1}", x(*at), y(*micros)));
        points.collect::<Vec<_>>().join(" ")
    };
    let view = format!("0 0 {WIDTH} {HEIGHT}");
    let values = grid(low, high);
    html! {
        svg viewBox=(view) role="img" aria-label="latency by percentile" {
            @for micros in values {
                @let at = y(micros);
                @let is_labelled = has_label(micros, top - bottom);
                line class=(if is_labelled { "grid" } else { "fine" })
                    x1=(LEFT) x2=(WIDTH - RIGHT) y1=(at) y2=(at) {}
                @if is_labelled {
                    text.tick x=(LEFT - 8.0) y=(at + 4.0) text-anchor="end" { (time(micros)) }
                }
            }
            @for (quantile, label) in TICKS.iter().filter(|(q, _)| decades(*q) <= x_max + 0.01) {
                @let at = x(decades(*quantile));
                line.grid x1=(at) x2=(at) y1=(TOP) y2=(HEIGHT - BOTTOM) {}
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

/// The largest of 1, 2 and 5 times a power of ten that is not over `value`.
fn round_down(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    [5.0, 2.0, 1.0].into_iter().map(|digit| digit * power).find(|v| *v <= value).unwrap_or(power)
}

/// The smallest of them that is over it.
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let above = [1.0, 2.0, 5.0].into_iter().map(|digit| digit * power).find(|v| *v > value);
    above.unwrap_or(10.0 * power)
}

/// Every digit times every power of ten between the two, rounded outwards.
fn grid(low: f64, high: f64) -> Vec<f64> {
    let (from, to) = (round_down(low), round_up(high));
    let powers = from.log10().floor() as i32..=to.log10().floor() as i32;
    let all = powers.flat_map(|power| (1..10).map(move |d| f64::from(d) * 10_f64.powi(power)));
    // What is computed in two ways differs in its last bit.
    all.filter(|value| *value >= from * 0.999 && *value <= to * 1.001).collect()
}

/// Powers of ten have a label, and where there are few of them, twos and fives have one.
fn has_label(value: f64, decades: f64) -> bool {
    const DECADES_WITHOUT: f64 = 3.0;
    let digit = (value / 10_f64.powf((value * 1.001).log10().floor())).round();
    digit <= 1.0 || (decades < DECADES_WITHOUT && [2.0, 5.0].contains(&digit))
}

fn time(micros: f64) -> String {
    let (value, unit) = match micros {
        micros if micros < 0.999 => (micros * 1e3, "ns"),
        micros if micros < 999.0 => (micros, "µs"),
        micros if micros < 999e3 => (micros / 1e3, "ms"),
        micros => (micros / 1e6, "s"),
    };
    format!("{value:.0} {unit}")
}

fn legend(names: &[&str]) -> Markup {
    html! {
        p.legend {
            @for name in names {
                span {
                    svg.key viewBox="0 0 28 10" aria-hidden="true" {
                        line class=(line_class(name)) x1="1" x2="27" y1="5" y2="5" {}
                    }
                    (name)
                }
            }
        }
    }
}

/// What a file of its own takes instead of a page's.
const STYLE: &str = "text{font:12px sans-serif;fill:#777}line{stroke:#8885}\
    polyline{fill:none;stroke:#3b7dd8;stroke-width:1.5}";
const LINES: u32 = 5;

/// A value over seconds, from zero, as a file of its own.
pub(crate) fn over_time(points: &[(f64, f64)], what: &str) -> Markup {
    let end = points.last().map_or(1.0, |(seconds, _)| seconds.max(1.0));
    let top = round_up(points.iter().map(|(_, value)| *value).fold(1.0, f64::max));
    let x = |seconds: f64| LEFT + seconds / end * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| TOP + (1.0 - value / top) * (HEIGHT - TOP - BOTTOM);
    let line = points.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value)));
    let line = line.collect::<Vec<_>>().join(" ");
    let part = |at: u32| f64::from(at) / f64::from(LINES);
    html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox=(format!("0 0 {WIDTH} {HEIGHT}"))
            role="img" aria-label=(what) {
            style { (STYLE) }
            @for at in 0..=LINES {
                @let (value, seconds) = (top * part(at), end * part(at));
                line x1=(LEFT) x2=(WIDTH - RIGHT) y1=(y(value)) y2=(y(value)) {}
                text x=(LEFT - 8.0) y=(y(value) + 4.0) text-anchor="end" {
                    (format!("{value:.0}"))
                }
                @let anchor = if at == LINES { "end" } else { "middle" };
                text x=(x(seconds)) y=(HEIGHT - BOTTOM + 18.0) text-anchor=(anchor) {
                    (format!("{seconds:.0} s"))
                }
            }
            text x=((LEFT + WIDTH - RIGHT) / 2.0) y=(HEIGHT - 6.0) text-anchor="middle" { (what) }
            polyline points=(line) {}
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
                @let least = BAR_LEFT + scale(bar.value.min);
                @let most = BAR_LEFT + scale(bar.value.max);
                text.label x=(BAR_LEFT - 10.0) y=(middle + 4.0) text-anchor="end" { (bar.name) }
                rect class=(format!("bar {}", class(bar.name))) x=(BAR_LEFT) y=(y)
                    width=(format!("{:.1}", scale(bar.value.median))) height=(BAR_HEIGHT) rx="2" {}
                line.whisker x1=(format!("{least:.1}")) x2=(format!("{most:.1}"))
                    y1=(middle) y2=(middle) {}
                text.value x=(format!("{:.1}", most + 8.0)) y=(middle + 4.0) {
                    (number(bar.value.median)) " " (unit)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_over_time_lies_between_zero_and_a_round_one() {
        let plot = over_time(&[(0.0, 0.0), (5.0, 45.0), (10.0, 90.0)], "MiB").into_string();
        assert!(plot.contains(r#"points="64.0,276.0 406.0,157.2 748.0,38.4""#), "{plot}");
        assert!(plot.contains(">100</text>"), "{plot}");
    }

    #[test]
    fn a_nine_is_as_wide_as_the_one_before() {
        let nines = [0.0, 0.9, 0.99, 0.999].map(decades);
        for (at, decade) in nines.into_iter().enumerate() {
            assert!((decade - at as f64).abs() < 1e-9, "{decade}");
        }
    }

    #[test]
    fn an_axis_ends_at_a_round_value() {
        for (value, below, above) in [(7.0, 5.0, 10.0), (10.0, 10.0, 20.0), (450.0, 200.0, 500.0)] {
            assert!((round_down(value) - below).abs() < 1e-9);
            assert!((round_up(value) - above).abs() < 1e-9);
        }
        let labelled =
            |decades| grid(45.0, 1_100.0).into_iter().filter(move |v| has_label(*v, decades));
        let texts: Vec<_> = labelled(1.0).map(time).collect();
        assert_eq!(texts, ["20 µs", "50 µs", "100 µs", "200 µs", "500 µs", "1 ms", "2 ms"]);
        let texts: Vec<_> = labelled(4.0).map(time).collect();
        assert_eq!(texts, ["100 µs", "1 ms"]);
    }
}
