//! The screen: totals and sparklines above, a table of channels below.

use std::cmp::Ordering;
use std::time::Duration;

use bytesize::ByteSize;
use clap::ValueEnum;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row as Cells, Sparkline, Table, TableState};

use super::sample::{History, Rates, Row, Trend};
use crate::cli::channels::served_by;
use crate::cli::latency::{Latency, shown, shown_micros};
use crate::cli::output::printable;

/// The column by which channels are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Sort {
    Channel,
    #[default]
    Requests,
    Publications,
    P99,
    Subscribers,
}

/// Height of the panels by that of the screen, because on a low screen the table matters more.
const PANEL_HEIGHTS: [(u16, u16); 3] = [(20, 6), (14, 4), (0, 0)];
const KEYS: &str =
    "sort: c channel r req p publ d p99 n subs · ↑↓ · +- speed · space pause · q quit";
const KEYS_WIDE: &str = " sort by c channel, r requests, p publications, d p99, n subscribers · \
    ↑↓ scroll · + - interval · space pause · q quit";
/// Width of the column that draws latencies, and the width of the screen from which it is shown.
const TREND_WIDTHS: [(u16, u16); 3] = [(140, 40), (110, 20), (80, 9)];
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A panel: its title, its text, the values of its sparkline, and its colour.
type Panel = (String, String, fn(&Rates) -> f64, Color);

struct Column {
    name: &'static str,
    width: u16,
    /// The width of the screen from which the column is shown.
    screen_width_min: u16,
    /// `None` if channels cannot be sorted by it.
    sort: Option<Sort>,
    is_text: bool,
    text: fn(&Row) -> String,
}

impl Column {
    const fn text(name: &'static str, width: u16, text: fn(&Row) -> String) -> Self {
        Self { name, width, screen_width_min: 0, sort: None, is_text: true, text }
    }

    const fn number(name: &'static str, width: u16, text: fn(&Row) -> String) -> Self {
        Self { is_text: false, ..Self::text(name, width, text) }
    }

    const fn on_screens_from(self, screen_width_min: u16) -> Self {
        Self { screen_width_min, ..self }
    }

    const fn sorted(self, sort: Sort) -> Self {
        Self { sort: Some(sort), ..self }
    }

    fn aligned(&self, line: Line<'static>) -> Cell<'static> {
        Cell::from(if self.is_text { line } else { line.right_aligned() })
    }
}

/// The columns. Their widths and the spaces between them add up to the screens on which they are
/// shown.
const COLUMNS: [Column; 10] = [
    Column::text("channel", 12, |row| printable(&row.channel).into_owned()).sorted(Sort::Channel),
    Column::number("req/s", 8, |row| shown_rate(row.requests_per_second)).sorted(Sort::Requests),
    Column::number("publ/s", 8, |row| shown_rate(row.publications_per_second))
        .sorted(Sort::Publications),
    Column::number("subs", 5, |row| row.subscribers.to_string())
        .on_screens_from(50)
        .sorted(Sort::Subscribers),
    Column::text("served by", 10, |row| served_by(row.has_handler, row.workers))
        .on_screens_from(70),
    Column::number("p50", 9, |row| shown_latency(row, |of| of.p50)).on_screens_from(60),
    Column::number("p99", 9, |row| shown_latency(row, |of| of.p99)).sorted(Sort::P99),
    Column::number("p99.9", 9, |row| shown_latency(row, |of| of.p999)).on_screens_from(90),
    Column::number("max", 9, |row| shown_latency(row, |of| of.max)).on_screens_from(100),
    Column::number("history", 8, |row| shown_number(row.kept_publications)).on_screens_from(150),
];

fn shown_rate(rate: Option<f64>) -> String {
    rate.filter(|rate| *rate > 0.0).map_or_else(|| "-".to_owned(), count)
}

fn shown_number(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn shown_latency(row: &Row, at: fn(&Latency) -> f64) -> String {
    row.latency_us.as_ref().map_or("-".to_owned(), |of| shown_micros(at(of)))
}

/// The user's choices, and the state that is shown besides the numbers.
pub(super) struct View {
    pub(super) endpoint: String,
    app: String,
    sort: Sort,
    is_reversed: bool,
    table: TableState,
    colours: bool,
    pub(super) interval: Duration,
    pub(super) is_paused: bool,
    /// The reason why there are no new numbers.
    pub(super) trouble: Option<String>,
}

impl View {
    pub(super) fn new(endpoint: String, app: String, sort: Sort, colours: bool) -> Self {
        Self {
            endpoint,
            app,
            sort,
            is_reversed: false,
            table: TableState::default(),
            colours,
            interval: Duration::ZERO,
            is_paused: false,
            trouble: None,
        }
    }

    /// Sorts by a column. The same column again reverses the order.
    pub(super) fn sort_by(&mut self, sort: Sort) {
        self.is_reversed = self.sort == sort && !self.is_reversed;
        self.sort = sort;
    }

    pub(super) fn scroll(&mut self, rows: isize) {
        *self.table.offset_mut() = self.table.offset().saturating_add_signed(rows);
    }

    pub(super) fn draw(&mut self, frame: &mut Frame<'_>, history: &History) {
        let height = frame.area().height;
        let nats = history.stats().and_then(|stats| stats.nats.as_ref());
        let panels = PANEL_HEIGHTS.into_iter().find(|(screen, _)| height >= *screen);
        let [head, panels, table, keys] = Layout::vertical([
            Constraint::Length(2 + u16::from(nats.is_some())),
            Constraint::Length(panels.map_or(0, |(_, panels)| panels)),
            Constraint::Min(3),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        self.draw_head(frame, head, history);
        self.draw_panels(frame, panels, history);
        self.draw_table(frame, table, history);
        let is_wide = usize::from(keys.width) >= KEYS_WIDE.chars().count();
        let text = if is_wide { KEYS_WIDE } else { KEYS };
        frame.render_widget(Paragraph::new(text).style(self.dim()), keys);
    }

    fn draw_head(&self, frame: &mut Frame<'_>, area: Rect, history: &History) {
        let (Some(stats), Some(rtt)) = (history.stats(), history.rtt()) else {
            // Before the first answer the screen shows the server's address and the problem with
            // it.
            let trouble = self.trouble.as_deref().unwrap_or("waiting for the first sample");
            let text = format!(" {}  {}", self.endpoint, printable(trouble));
            return frame.render_widget(Paragraph::new(text), area);
        };
        let up = stats.uptime();
        let every = humantime::format_duration(self.interval);
        // The values that change least come last, where a narrow screen cuts them off.
        let title = Line::from(vec![
            Span::styled(format!(" {}", self.endpoint), bold()),
            Span::styled(if self.is_paused { "  paused" } else { "" }, bold()),
            Span::raw(format!("  every {every}  answered in {}  up {up}", shown(rtt))),
            Span::styled(format!("  ipc-framework {}", printable(&stats.version)), self.dim()),
        ]);
        let second = match &self.trouble {
            Some(trouble) => {
                let alarm = self.coloured(Color::Red).add_modifier(Modifier::BOLD);
                Line::styled(format!(" {}", printable(trouble)), alarm)
            }
            None => Line::raw(format!(
                " {} of {} connections  {} apps  {} channels  {} pending ({} kept)  {} buffered",
                stats.total_connections,
                stats.max_connections,
                stats.total_applications,
                stats.total_channels,
                stats.pending_requests,
                stats.kept_requests,
                ByteSize(stats.buffered_bytes)
            )),
        };
        let third = stats.nats.as_ref().map(|nats| {
            let colour = if nats.connected { Style::default() } else { self.coloured(Color::Red) };
            Line::styled(format!(" NATS {}", nats.line()), colour)
        });
        let lines: Vec<Line<'_>> = [title, second].into_iter().chain(third).collect();
        frame.render_widget(Paragraph::new(lines), area);
    }

    fn draw_panels(&self, frame: &mut Frame<'_>, area: Rect, history: &History) {
        let now = history.latest().unwrap_or_default();
        let bytes = |rate: f64| format!("{}/s", ByteSize(whole(rate)));
        let panel = |name: &str, rate: f64, below: String, of: fn(&Rates) -> f64, colour| {
            (format!("{name} {}/s", count(rate)), below, of, colour)
        };
        let panels: [Panel; 4] = [
            panel("in", now.frames_in, bytes(now.bytes_in), |of| of.frames_in, Color::Cyan),
            panel("out", now.frames_out, bytes(now.bytes_out), |of| of.frames_out, Color::Green),
            panel("publ", now.publications, String::new(), |of| of.publications, Color::Blue),
            panel("errors", now.errors, String::new(), |of| of.errors, Color::Red),
        ];
        let areas = Layout::horizontal([Constraint::Fill(1); 4]).split(area);
        for ((title, below, rate, colour), area) in panels.into_iter().zip(areas.iter()) {
            let width = usize::from(area.width.saturating_sub(2));
            // The newest value is at the right edge. Values are in tenths, so that rates below one
            // per second show.
            let skipped = history.rates.len().saturating_sub(width);
            let missing = width.saturating_sub(history.rates.len());
            let known = history.rates.iter().skip(skipped).map(|rates| rates.unwrap_or_default());
            let shown = known.map(|rates| whole(rate(&rates) * 10.0));
            let data: Vec<u64> = std::iter::repeat_n(0, missing).chain(shown).collect();
            let sparkline = Sparkline::default().data(data).style(self.coloured(colour));
            let mut block = self.block(&title);
            if !below.is_empty() {
                block = block.title_bottom(Line::from(format!(" {below} ")).style(Style::reset()));
            }
            frame.render_widget(sparkline.block(block), *area);
        }
    }

    fn draw_table(&mut self, frame: &mut Frame<'_>, area: Rect, history: &History) {
        let mut rows: Vec<&Row> = history.rows.iter().collect();
        rows.sort_by(|a, b| self.order(a, b));
        // Scrolling stops when the last row is at the bottom.
        let visible = usize::from(area.height.saturating_sub(3));
        let last = rows.len().saturating_sub(visible);
        *self.table.offset_mut() = self.table.offset().min(last);
        let block = self.block(&format!("channels of {}", printable(&self.app)));
        if rows.is_empty() {
            let text = " none yet; name another application with --app";
            frame.render_widget(Paragraph::new(text).block(block), area);
            return;
        }
        let columns: Vec<&Column> =
            COLUMNS.iter().filter(|column| area.width >= column.screen_width_min).collect();
        let trend = TREND_WIDTHS.into_iter().find(|(screen, _)| area.width >= *screen);
        let trend = trend.map(|(_, width)| width);
        // The names get the width that the other columns leave.
        let widths = columns.iter().map(|column| match column.name {
            "channel" => Constraint::Min(column.width),
            _ => Constraint::Length(column.width),
        });
        let widths = widths.chain(trend.map(Constraint::Length));
        let drawn = |row: &Row| match (trend, history.trend(&row.channel)) {
            (Some(width), Some(trend)) => drawn(trend, usize::from(width)),
            _ => String::new(),
        };
        let body = rows.iter().map(|row| self.cells(&columns, row, drawn(row)));
        let table = Table::new(body, widths).header(self.header(&columns)).block(block);
        frame.render_stateful_widget(table, area, &mut self.table);
    }

    fn header(&self, columns: &[&Column]) -> Cells<'static> {
        let cells = columns.iter().map(|column| {
            let is_sorted = column.sort == Some(self.sort);
            let style = if is_sorted { bold().add_modifier(Modifier::UNDERLINED) } else { bold() };
            // Names increase downwards, numbers upwards, unless reversed.
            let is_growing = (self.sort == Sort::Channel) != self.is_reversed;
            let arrow = match (is_sorted, is_growing) {
                (false, _) => "",
                (true, false) => "▼",
                (true, true) => "▲",
            };
            column.aligned(Line::styled(format!("{}{arrow}", column.name), style))
        });
        Cells::new(cells.chain([Cell::from(Line::styled("latency", bold()))]))
    }

    fn cells(&self, columns: &[&Column], row: &Row, drawn: String) -> Cells<'static> {
        let rates = [row.requests_per_second, row.publications_per_second];
        let is_idle = rates.into_iter().flatten().all(|rate| rate <= 0.0);
        let style = if is_idle { self.dim() } else { Style::default() };
        let cells = columns.iter().map(|column| column.aligned(Line::raw((column.text)(row))));
        let drawn = Cell::from(Line::styled(drawn, self.coloured(Color::Yellow)));
        Cells::new(cells.chain([drawn])).style(style)
    }

    /// Sorts names from A to Z and numbers from the largest, equal ones by name.
    fn order(&self, a: &Row, b: &Row) -> Ordering {
        let p99 = |row: &Row| row.latency_us.map_or(0.0, |of| of.p99);
        let rate = Option::unwrap_or_default;
        let order = match self.sort {
            Sort::Channel => a.channel.cmp(&b.channel),
            Sort::Requests => rate(b.requests_per_second).total_cmp(&rate(a.requests_per_second)),
            Sort::Publications => {
                rate(b.publications_per_second).total_cmp(&rate(a.publications_per_second))
            }
            Sort::P99 => p99(b).total_cmp(&p99(a)),
            Sort::Subscribers => b.subscribers.cmp(&a.subscribers),
        };
        let order = if self.is_reversed { order.reverse() } else { order };
        order.then_with(|| a.channel.cmp(&b.channel))
    }

    fn block(&self, title: &str) -> Block<'static> {
        let title = Line::from(format!(" {title} "));
        Block::bordered().border_style(self.dim()).title(title.style(Style::reset()))
    }

    fn coloured(&self, colour: Color) -> Style {
        if self.colours { Style::default().fg(colour) } else { Style::default() }
    }

    fn dim(&self) -> Style {
        self.coloured(Color::DarkGray)
    }
}

/// Draws the newest samples as bars from zero, scaled to the largest of them, with a gap for
/// samples in which nothing happened.
fn drawn(trend: &Trend, width: usize) -> String {
    let skipped = trend.len().saturating_sub(width);
    let shown = || trend.iter().skip(skipped);
    let largest = shown().flatten().fold(f64::MIN_POSITIVE, |largest, mean| largest.max(*mean));
    let bar = |mean: &Option<f64>| {
        mean.map_or(' ', |mean| {
            let step = whole(mean / largest * BARS.len() as f64);
            BARS[(step as usize).min(BARS.len() - 1)]
        })
    };
    // The newest sample is at the right edge.
    let gap = std::iter::repeat_n(' ', width.saturating_sub(trend.len()));
    gap.chain(shown().map(bar)).collect()
}

#[expect(clippy::cast_sign_loss, reason = "no rate is negative")]
fn whole(rate: f64) -> u64 {
    rate as u64
}

fn bold() -> Style {
    Style::default().add_modifier(Modifier::BOLD)
}

/// Displays a rate as `12`, `3.4k` or `1.2M`, with a decimal only if it matters.
fn count(rate: f64) -> String {
    match rate {
        rate if rate >= 1e6 => format!("{:.1}M", rate / 1e6),
        rate if rate >= 1e4 => format!("{:.1}k", rate / 1e3),
        rate if rate >= 10.0 || rate == 0.0 => format!("{rate:.0}"),
        rate => format!("{rate:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_fits_its_column() {
        for (rate, shown) in
            [(0.0, "0"), (0.5, "0.5"), (12.3, "12"), (9_999.0, "9999"), (12_345.0, "12.3k")]
        {
            assert_eq!(count(rate), shown);
        }
        assert_eq!(count(2_500_000.0), "2.5M");
    }

    #[test]
    fn latencies_are_drawn_up_to_the_newest() {
        let trend = Trend::from([Some(9.0), Some(4.0), None, Some(8.0), Some(0.5)]);
        assert_eq!(drawn(&trend, 4), "▅ █▁");
        assert_eq!(drawn(&trend, 7), "  █▄ █▁");
        assert_eq!(drawn(&Trend::new(), 2), "  ");
    }
}
