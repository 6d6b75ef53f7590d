//! The plots, as SVG.

use std::error::Error;

use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::number::number;
use crate::figures::Summary;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: u32 = 760;
const HEIGHT: u32 = 320;
const BAR_STEP: u32 = 30;
const FONT: (&str, u32) = ("sans-serif", 12);
const GRID: RGBAColor = RGBAColor(0, 0, 0, 0.15);
/// Positions with a label: 0 %, 50 %, and up to five nines, beyond which a run has no samples.
const NINES: [i32; 7] = [0, 301, 1_000, 2_000, 3_000, 4_000, 5_000];

/// A line of latency by percentile: its name and its points, as quantile and microseconds.
pub(super) type Curve<'a> = (&'a str, &'a [(f64, f64)]);

/// Latency by percentile, with a nine for each step to the right.
pub(super) fn latency(curves: &[Curve<'_>]) -> String {
    let points = |points: &[(f64, f64)]| -> Vec<(i32, f64)> {
        let scaled = points.iter().map(|(quantile, micros)| (position(*quantile), *micros));
        scaled.filter(|(x, y)| *x <= NINES[NINES.len() - 1] && *y > 0.0).collect()
    };
    let all = || curves.iter().flat_map(|(_, found)| points(found));
    let right = all().map(|(x, _)| x).fold(NINES[2], i32::max);
    let low = all().map(|(_, y)| y).fold(f64::INFINITY, f64::min);
    let high = all().map(|(_, y)| y).fold(0.0, f64::max);
    draw(HEIGHT, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(
                (0..right).with_key_points(NINES.into()),
                (low * 0.9..high * 1.1).log_scale(),
            )?;
        chart
            .configure_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .x_desc("percentile of requests")
            .x_label_formatter(&|position| percent(*position))
            .y_label_formatter(&|micros| time(*micros))
            .draw()?;
        for (name, found) in curves {
            let style = style(name);
            // The line of a Unix socket is dashed, in the colour of its peer. All others are solid,
            // which means one very long dash.
            let dash = if name.ends_with("-unix") { 6 } else { i32::MAX };
            let line = DashedLineSeries::new(points(found), dash, 4, style);
            let key = move |(x, y)| DashedPathElement::new([(x, y), (x + 20, y)], dash, 4, style);
            chart.draw_series(line)?.label(*name).legend(key);
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .draw()?;
        Ok(())
    })
}

/// Bars from zero, with a whisker from the least to the most.
pub(super) fn bars(bars: &[(&str, Summary)], unit: &str) -> String {
    // The axis goes upwards, and the first bar is to stand on top.
    let bars: Vec<&(&str, Summary)> = bars.iter().rev().collect();
    let most = bars.iter().map(|(_, value)| value.max).fold(f64::MIN_POSITIVE, f64::max);
    draw(BAR_STEP * bars.len() as u32 + 8, |area| {
        let names = |at: &SegmentValue<usize>| match at {
            SegmentValue::CenterOf(at) => bars.get(*at).map_or("", |(name, _)| name).to_owned(),
            _ => String::new(),
        };
        // The labels are to the right of the bars.
        let mut chart = ChartBuilder::on(area)
            .margin(4)
            .y_label_area_size(116)
            .build_cartesian_2d(0.0..most * 1.3, (0..bars.len()).into_segmented())?;
        chart
            .configure_mesh()
            .disable_mesh()
            .axis_style(TRANSPARENT)
            .x_labels(0)
            .y_labels(bars.len())
            .y_label_formatter(&names)
            .draw()?;
        let beside = Pos::new(HPos::Left, VPos::Center);
        let label = FONT.into_text_style(area).pos(beside);
        for (at, (name, value)) in bars.iter().enumerate() {
            let middle = SegmentValue::CenterOf(at);
            let corners =
                [(0.0, SegmentValue::Exact(at)), (value.median, SegmentValue::Exact(at + 1))];
            let mut bar = Rectangle::new(corners, style(name).filled());
            bar.set_margin(4, 4, 0, 0);
            chart.draw_series([bar])?;
            let whisker =
                |key| ErrorBar::new_horizontal(key, value.min, value.median, value.max, BLACK, 6);
            chart.draw_series([whisker(middle.clone())])?;
            let text = format!("\u{2002}{} {unit}", number(value.median));
            chart.draw_series([Text::new(text, (value.max, middle), label.clone())])?;
        }
        Ok(())
    })
}

/// A value over seconds, from zero.
pub(crate) fn over_time(points: &[(f64, f64)], what: &str) -> String {
    let end = points.last().map_or(1.0, |(seconds, _)| seconds.max(1.0));
    let top = points.iter().map(|(_, value)| *value).fold(1.0, f64::max);
    draw(HEIGHT, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..end, 0.0..top * 1.1)?;
        let mut mesh = chart.configure_mesh();
        mesh.bold_line_style(GRID).light_line_style(TRANSPARENT).x_desc("seconds").y_desc(what);
        mesh.draw()?;
        chart.draw_series(LineSeries::new(points.iter().copied(), &BLUE))?;
        Ok(())
    })
}

fn draw(height: u32, paint: impl FnOnce(&Area<'_>) -> Result<(), Box<dyn Error>>) -> String {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
    let painted = paint(&area).and_then(|()| Ok(area.present()?));
    drop(area);
    match painted {
        // The backend gives each element lines of its own, of which a page would have thousands.
        // SVG drops line ends in texts as well.
        Ok(()) => svg.replace('\n', ""),
        Err(error) => format!("<p>This plot cannot be drawn: {error}.</p>"),
    }
}

/// The colour of an entrant, and this server's line thicker than the others.
fn style(name: &str) -> ShapeStyle {
    let colour = match name.split('-').next().unwrap_or_default() {
        "ipc" if name == "ipc-idle" || name == "ipc-spin" => RGBColor(14, 165, 183),
        "ipc" => RGBColor(11, 98, 214),
        "bare" if name == "bare-read" || name == "bare-frames" => RGBColor(160, 168, 176),
        "bare" => RGBColor(87, 96, 106),
        "redis" => RGBColor(209, 36, 47),
        "nats" => RGBColor(26, 127, 55),
        "zeromq" => RGBColor(179, 89, 0),
        _ => RGBColor(130, 80, 223),
    };
    colour.stroke_width(if name.starts_with("ipc") { 3 } else { 2 })
}

/// Returns the position of a quantile on the axis: a thousand steps for each nine.
fn position(quantile: f64) -> i32 {
    (-1_000.0 * (1.0 - quantile).max(1e-9).log10()).round() as i32
}

/// Formats the quantile at a position.
fn percent(position: i32) -> String {
    let nines = f64::from(position) / 1_000.0;
    let digits = (nines - 2.0).max(0.0) as usize;
    format!("{:.digits$} %", 100.0 * (1.0 - 10_f64.powf(-nines)))
}

fn time(micros: f64) -> String {
    match micros {
        ..0.999 => format!("{:.0} ns", micros * 1e3),
        ..999.0 => format!("{micros:.0} µs"),
        ..999e3 => format!("{:.0} ms", micros / 1e3),
        _ => format!("{:.0} s", micros / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nine_is_as_wide_as_the_one_before() {
        assert_eq!([0.0, 0.9, 0.99, 0.999].map(position), [0, 1_000, 2_000, 3_000]);
        let texts = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999].map(|at| percent(position(at)));
        assert_eq!(texts, ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
    }

    #[test]
    fn a_time_has_the_unit_that_makes_it_short() {
        assert_eq!([0.5, 20.0, 1e3, 2e6].map(time), ["500 ns", "20 µs", "1 ms", "2 s"]);
    }

    #[test]
    fn a_plot_shows_what_it_is_given() {
        let points = [(0.0, 30.0), (0.5, 40.0), (0.99, 900.0)];
        let plot = latency(&[("ipc", &points), ("bare-unix", &points)]);
        for text in ["100 µs", "99 %", "ipc", "bare-unix", "percentile"] {
            assert!(plot.contains(text), "{text} is missing in {plot}");
        }
        let plot = bars(&[("redis", Summary { median: 12.0, min: 11.0, max: 13.0 })], "MB/s");
        assert!(plot.contains("redis") && plot.contains("12.0 MB/s"), "{plot}");
        let plot = over_time(&[(0.0, 0.0), (5.0, 45.0), (10.0, 90.0)], "MiB");
        assert!(plot.starts_with("<svg") && plot.contains("MiB"), "{plot}");
        assert_eq!(plot.lines().count(), 1);
    }
}
