//! index.html: one file, without scripts, for light and dark screens.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::number::number;
use super::plot::{self, Curve};
use super::results::{EntrantRecord, Record, ScenarioRecord};
use super::summary::{conditions, dirty, figures_of, found, tally, verdict};
use crate::figures::Figure;
use crate::goals::Standing;

const STYLE: &str = include_str!("page.css");

pub(super) fn page(record: &Record) -> String {
    let machine = &record.machine;
    let title = format!("ipc-framework, {}, {}", record.date, machine.cpu);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { "ipc-framework beside its peers" }
                    p.lead { (record.date) ", " (machine.cpu) ". " (conditions(record)) }
                    (goals(record))
                    h2 { "Figures" }
                    p { "Medians over the repetitions, and min..max of them below. A curve holds "
                        "all repetitions together: each step to the right is ten times rarer." }
                    @for scenario in &record.scenarios { (section(scenario)) }
                    (conditions_table(record))
                }
            }
        }
    };
    page.into_string() + "\n"
}

fn goals(record: &Record) -> Markup {
    html! {
        h2 { "Goals" }
        p { (tally(record)) }
        div.scroll { table {
            thead { tr {
                th { "work" } th { "figure" } th.number { "goal" } th.number { "found" }
                th.number { "min..max" } th { "verdict" }
            } }
            tbody {
                @for (at, goal) in record.goals.iter().enumerate() {
                    @let (middle, spread) = found(goal.found);
                    @let is_first = at == 0 || record.goals[at - 1].work != goal.work;
                    tr.first[is_first] {
                        td { @if is_first { (goal.work) } }
                        td { (goal.what) }
                        td.number { (goal.bound) }
                        td.number { b { (middle) } }
                        td.number.quiet { (spread) }
                        td class=(standing(goal.standing)) { (verdict(goal)) }
                    }
                }
            }
        } }
    }
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Reached => "reached",
        Standing::Missed => "missed",
        Standing::NotMeasured => "open",
    }
}

fn section(scenario: &ScenarioRecord) -> Markup {
    let curves: Vec<Curve<'_>> = scenario
        .entrants
        .iter()
        .filter(|entrant| !entrant.percentiles.is_empty())
        .map(|entrant| (&*entrant.name, &*entrant.percentiles))
        .collect();
    html! {
        section {
            h3 id=(scenario.name) { (scenario.title) }
            @if !scenario.note.is_empty() { p { (scenario.note) } }
            @if !curves.is_empty() { (PreEscaped(plot::latency(&curves))) }
            @match bar_figure(scenario) {
                Some((figure, unit)) => { (bars(scenario, figure, unit)) }
                None => {}
            }
            (table(scenario))
        }
    }
}

/// Returns the figure that the bars of a scenario show, and its unit.
fn bar_figure(scenario: &ScenarioRecord) -> Option<(Figure, &'static str)> {
    // At a given rate, all entrants have the same throughput.
    if !scenario.note.is_empty() {
        return None;
    }
    let figures = figures_of(scenario);
    [
        (Figure::SyscallsPerRequest, "per request"),
        (Figure::MegabytesPerSecond, "MB/s"),
        (Figure::PerSecond, "per second"),
    ]
    .into_iter()
    .find(|(figure, _)| figures.contains(figure))
}

fn bars<'a>(scenario: &'a ScenarioRecord, figure: Figure, unit: &str) -> Markup {
    let bar = |entrant: &'a EntrantRecord| Some((&*entrant.name, entrant.summary(figure)?));
    let bars: Vec<_> = scenario.entrants.iter().filter_map(bar).collect();
    PreEscaped(plot::bars(&bars, unit))
}

fn table(scenario: &ScenarioRecord) -> Markup {
    let figures = figures_of(scenario);
    html! {
        div.scroll { table.figures {
            thead { tr {
                th { }
                @for figure in &figures { th.number { (figure.label()) } }
            } }
            tbody {
                @for entrant in &scenario.entrants {
                    tr.first {
                        th { (entrant.name) }
                        @if let Some(reason) = &entrant.left_out {
                            td.open colspan=(figures.len().max(1)) { "left out: " (reason) }
                        } @else {
                            @for figure in &figures {
                                td.number {
                                    @if let Some(summary) = entrant.summary(*figure) {
                                        (number(summary.median))
                                        small { (number(summary.min)) ".." (number(summary.max)) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        } }
        @for entrant in &scenario.entrants {
            @for failure in &entrant.failures {
                p.missed { (entrant.name) " failed: " (failure) }
            }
        }
        details {
            summary { "commands" }
            @for entrant in &scenario.entrants {
                p.command { b { (entrant.name) } " " code { (entrant.command) } }
            }
        }
    }
}

fn conditions_table(record: &Record) -> Markup {
    let machine = &record.machine;
    html! {
        h2 { "Conditions" }
        div.scroll { table.conditions {
            tbody {
                tr { th { "command" } td { code { (record.command) } } }
                tr { th { "commit" } td { (machine.commit) (dirty(record)) } }
                tr { th { "compiler" } td { (machine.rustc) } }
                tr { th { "kernel" } td { (machine.kernel) } }
                @for (name, version) in &record.versions {
                    tr { th { (name) } td { (version) } }
                }
            }
        } }
    }
}
