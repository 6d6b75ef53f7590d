//! summary.md: the goals and the figures, as tables.

use std::fmt::Write;

use super::number::number;
use super::results::{Record, ScenarioRecord};
use crate::figures::{Figure, Summary};
use crate::goals::{Standing, Verdict};

pub(super) fn markdown(record: &Record) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_all(&mut text, record);
    text
}

fn write_all(out: &mut String, record: &Record) -> std::fmt::Result {
    let machine = &record.machine;
    writeln!(out, "# {}, {}\n", record.date, machine.cpu)?;
    writeln!(out, "{}\n", conditions(record))?;
    writeln!(out, "| | |\n|---|---|")?;
    writeln!(out, "| command | `{}` |", record.command)?;
    writeln!(out, "| commit | {}{} |", machine.commit, dirty(record))?;
    writeln!(out, "| compiler | {} |", machine.rustc)?;
    writeln!(out, "| kernel | {} |", machine.kernel)?;
    for (name, version) in &record.versions {
        writeln!(out, "| {name} | {version} |")?;
    }
    writeln!(out, "\n## Goals\n")?;
    writeln!(out, "{}\n", tally(record))?;
    writeln!(out, "| work | figure | goal | found | min..max | verdict |")?;
    writeln!(out, "|---|---|---|---|---|---|")?;
    for goal in &record.goals {
        let (found, spread) = found(goal.found);
        let (work, what, bound) = (&goal.work, &goal.what, &goal.bound);
        writeln!(out, "| {work} | {what} | {bound} | {found} | {spread} | {} |", verdict(goal))?;
    }
    writeln!(out, "\n## Figures\n")?;
    writeln!(out, "Medians over the repetitions, and min..max of them in parentheses.")?;
    for scenario in &record.scenarios {
        write_scenario(out, scenario)?;
    }
    Ok(())
}

fn write_scenario(out: &mut String, scenario: &ScenarioRecord) -> std::fmt::Result {
    writeln!(out, "\n### {}\n", scenario.title)?;
    if !scenario.note.is_empty() {
        writeln!(out, "{}\n", scenario.note)?;
    }
    let figures = figures_of(scenario);
    write!(out, "| {} |", scenario.name)?;
    figures.iter().try_for_each(|figure| write!(out, " {} |", figure.label()))?;
    writeln!(out, "\n|---|{}", "---|".repeat(figures.len()))?;
    for entrant in &scenario.entrants {
        write!(out, "| {} |", entrant.name)?;
        if let Some(reason) = &entrant.left_out {
            writeln!(out, " left out: {reason} |")?;
            continue;
        }
        for figure in &figures {
            match entrant.summary(*figure) {
                Some(summary) => write!(
                    out,
                    " {} ({}..{}) |",
                    number(summary.median),
                    number(summary.min),
                    number(summary.max)
                )?,
                None => write!(out, " |")?,
            }
        }
        writeln!(out)?;
    }
    for entrant in &scenario.entrants {
        for failure in &entrant.failures {
            writeln!(out, "\n{} failed: {failure}", entrant.name)?;
        }
    }
    Ok(())
}

/// Returns the figures that at least one entrant has, in their order.
pub(super) fn figures_of(scenario: &ScenarioRecord) -> Vec<Figure> {
    let mut figures: Vec<Figure> =
        scenario.entrants.iter().flat_map(|entrant| entrant.figures.keys().copied()).collect();
    figures.sort_unstable();
    figures.dedup();
    figures
}

/// The share of a processor, in percent, above which the use by other processes is reported.
const QUIET_PERCENT: f64 = 5.0;

pub(super) fn conditions(record: &Record) -> String {
    let machine = &record.machine;
    let quick = if record.is_quick { "A quick run: figures are rough. " } else { "" };
    let kind = if machine.is_virtual { "a virtual machine with " } else { "" };
    let others = record.others_busy().map_or(String::new(), |others| {
        let (median, max) = (100.0 * others.median, 100.0 * others.max);
        let verdict = match median {
            ..QUIET_PERCENT => "",
            _ => ", which is too much: measure again on a quiet machine",
        };
        format!(" Others used {median:.0} % of a processor, at most {max:.0} %{verdict}.")
    });
    format!(
        "{quick}{} repetitions of {} s each, interleaved, on {kind}{} cores and {} GiB; servers \
         on CPU {}, the generator on CPU {}; load before the run {}.{others}",
        record.repetitions,
        record.seconds_each,
        machine.cores,
        machine.memory_gib,
        machine.server_cpu,
        machine.generator_cpu,
        machine.load_before
    )
}

pub(super) fn tally(record: &Record) -> String {
    let (reached, missed, open) = record.reached();
    format!(
        "{reached} reached, {missed} missed, {open} not measured. A ratio is the median of the \
         ratios of what ran in the same round."
    )
}

pub(super) fn dirty(record: &Record) -> &'static str {
    if record.machine.is_dirty { ", with changes on top" } else { "" }
}

pub(super) fn verdict(goal: &Verdict) -> String {
    match goal.standing {
        Standing::Reached => "reached".to_owned(),
        Standing::Missed => format!("missed, {}", goal.remark),
        Standing::NotMeasured => format!("not measured: {}", goal.remark),
    }
}

/// Formats a median and its spread.
pub(super) fn found(found: Option<Summary>) -> (String, String) {
    match found {
        None => ("–".to_owned(), "–".to_owned()),
        Some(found) => {
            let spread = format!("{}..{}", number(found.min), number(found.max));
            (number(found.median), spread)
        }
    }
}
