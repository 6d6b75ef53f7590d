//! One figure of one load, in both builds.

use std::fmt;

use crate::figures::{Figure, Sample, Summary};
use crate::goals::Bound;

/// The figures that are judged, and the range for the median of new/old.
const JUDGED: [(Figure, Bound); 3] = [
    (Figure::ServerCpuUs, Bound::AtMost(1.03)),
    (Figure::P50Us, Bound::AtMost(1.03)),
    (Figure::PerSecond, Bound::AtLeast(0.97)),
];

#[derive(Debug)]
pub(super) struct Row {
    figure: Figure,
    bound: Bound,
    /// The old and the new value of each pair.
    pairs: Vec<(f64, f64)>,
}

impl Row {
    pub(super) const HEAD: &str =
        "figure                    old         new   new/old          95 %       worse";

    pub(super) fn all() -> Vec<Self> {
        JUDGED.map(|(figure, bound)| Self { figure, bound, pairs: Vec::new() }).into()
    }

    pub(super) fn add(&mut self, old: &Sample, new: &Sample) -> Result<(), String> {
        let value = |sample: &Sample| {
            let value = sample.get(&self.figure).copied();
            value.filter(|value| *value > 0.0).ok_or(format!("no {} was measured", self.label()))
        };
        self.pairs.push((value(old)?, value(new)?));
        Ok(())
    }

    /// Returns whether the new build is worse by more than is allowed.
    pub(super) fn is_beyond(&self) -> bool {
        self.ratio().is_some_and(|ratio| !self.bound.holds(ratio.median))
    }

    pub(super) fn complaint(&self) -> String {
        let median = self.ratio().map_or(f64::NAN, |ratio| ratio.median);
        let bound = self.bound.text();
        let (from, to) = self.interval();
        let doubt = if (from..=to).contains(&1.0) {
            ", but the pairs do not agree on the direction: measure again on a quieter machine"
        } else {
            ""
        };
        format!("{} is {median:.3} of the old build's, {bound} is allowed{doubt}", self.label())
    }

    fn label(&self) -> &'static str {
        self.figure.label()
    }

    /// Returns the ratios in ascending order.
    fn ratios(&self) -> Vec<f64> {
        let mut ratios: Vec<f64> = self.pairs.iter().map(|(old, new)| new / old).collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }

    fn ratio(&self) -> Option<Summary> {
        Summary::of(self.ratios())
    }

    fn interval(&self) -> (f64, f64) {
        let ratios = self.ratios();
        match ratios.len() {
            0 => (f64::NAN, f64::NAN),
            count => {
                let outside = outside_interval(count);
                (ratios[outside], ratios[count - 1 - outside])
            }
        }
    }

    fn worse(&self) -> usize {
        let is_more_better = self.bound.holds(f64::INFINITY);
        let is_worse =
            |(old, new): &&(f64, f64)| if is_more_better { new < old } else { new > old };
        self.pairs.iter().filter(is_worse).count()
    }
}

/// Returns how many of `count` sorted values lie below the 95 % confidence interval of the median;
/// as many lie above it. Each value is below the true median with probability one half, whatever
/// the distribution. With fewer than six values, the interval contains all of them.
fn outside_interval(count: usize) -> usize {
    let mut outside = 0;
    // The number of values below the median has a binomial distribution.
    let mut probability = 0.5_f64.powf(count as f64);
    let mut below = probability;
    while below <= 0.025 {
        outside += 1;
        probability *= (count + 1 - outside) as f64 / outside as f64;
        below += probability;
    }
    outside.saturating_sub(1)
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let middle = |side: fn(&(f64, f64)) -> f64| {
            Summary::of(self.pairs.iter().map(side)).map_or(f64::NAN, |summary| summary.median)
        };
        let (old, new) = (middle(|pair| pair.0), middle(|pair| pair.1));
        let digits = if old < 1_000.0 { 2 } else { 0 };
        let ratio = self.ratio().map_or(f64::NAN, |ratio| ratio.median);
        let (from, to) = self.interval();
        let verdict = if self.is_beyond() { "  BEYOND " } else { "" };
        let bound = if self.is_beyond() { self.bound.text() } else { String::new() };
        write!(
            f,
            "{:<18}{old:>11.digits$} {new:>11.digits$}   {ratio:>7.3}  {from:.3}..{to:.3} \
             {:>5} of {:<3}{verdict}{bound}",
            self.label(),
            self.worse(),
            self.pairs.len(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(figure: Figure, ratios: &[f64]) -> Row {
        let mut rows = Row::all();
        let at = rows.iter().position(|row| row.figure == figure).unwrap();
        let mut row = rows.swap_remove(at);
        for ratio in ratios {
            let sample = |value| Sample::from([(figure, value)]);
            row.add(&sample(200.0), &sample(200.0 * ratio)).unwrap();
        }
        row
    }

    #[test]
    fn the_median_of_the_ratios_decides() {
        assert!(!row(Figure::P50Us, &[0.5, 1.029, 7.0]).is_beyond());
        assert!(row(Figure::P50Us, &[0.5, 1.031, 7.0]).is_beyond());
        assert!(!row(Figure::ServerCpuUs, &[0.5, 0.5, 0.5]).is_beyond());
        assert!(!row(Figure::PerSecond, &[0.1, 0.971, 1.0]).is_beyond());
        assert!(row(Figure::PerSecond, &[0.1, 0.969, 7.0]).is_beyond());
    }

    #[test]
    fn worse_is_more_time_and_less_throughput() {
        assert_eq!(row(Figure::P50Us, &[0.9, 1.0, 1.1, 1.2]).worse(), 2);
        assert_eq!(row(Figure::PerSecond, &[0.8, 0.9, 0.95, 1.2]).worse(), 3);
    }

    #[test]
    fn the_interval_leaves_out_what_is_too_far_out() {
        // These values are from tables of the sign test.
        for (count, outside) in [(1, 0), (5, 0), (6, 0), (9, 1), (15, 3), (30, 9)] {
            assert_eq!(outside_interval(count), outside, "{count} pairs");
        }
        let ratios: Vec<f64> = (0..15).map(|at| 1.0 + f64::from(at) / 100.0).collect();
        let (from, to) = row(Figure::P50Us, &ratios).interval();
        assert!((from - 1.03).abs() < 1e-9 && (to - 1.11).abs() < 1e-9, "{from}..{to}");
    }

    #[test]
    fn a_complaint_says_whether_the_pairs_agree() {
        let clear = row(Figure::P50Us, &[1.05; 6]).complaint();
        assert_eq!(clear, "p50, µs is 1.050 of the old build's, ≤ 1.03 is allowed");
        let doubtful = row(Figure::P50Us, &[0.9, 1.05, 1.06]).complaint();
        assert!(doubtful.contains("do not agree"), "{doubtful}");
    }

    #[test]
    fn a_figure_that_is_missing_is_an_error() {
        let mut rows = Row::all();
        assert!(rows[0].add(&Sample::new(), &Sample::new()).is_err());
    }
}
