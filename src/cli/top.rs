//! `ipc top`

mod sample;
mod sampler;
mod screen;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use ipc_framework::client::Connection;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use self::sample::{History, Sample};
use self::sampler::Sampler;
use self::screen::{Sort, View};
use super::failure::Failure;
use super::failure::with_exit_codes;
use super::interrupt::Interrupt;
use super::output::Output;
use super::target::Target;
use super::units;

/// Watch a server: rates, connections, channels and their latencies.
#[derive(Args, Debug)]
#[command(after_help = with_exit_codes!("\
Rates are those since the last sample; the first one has none, which is null with --json. \
Percentiles are the server's, since its start; the column \
beside them draws the mean latency of the last samples, with the newest at the right. Channels \
are those of the application that --app names.

Keys: c r p d n sort by channel, requests, publications, p99 or subscribers; the same key again \
reverses the order. Arrow and page keys scroll, + and - change the interval, space pauses, \
q ends.

Examples:
  ipc top
  ipc top --app chat_app --interval 500ms --sort publications
  ipc top --json --count 2"))]
pub(super) struct Top {
    /// Time between samples
    #[arg(short, long, value_name = "DURATION", default_value = "1s")]
    #[arg(value_parser = units::timeout)]
    interval: Duration,
    /// Column to sort channels by
    #[arg(long, value_enum, default_value_t)]
    sort: Sort,
    /// Stop after this many samples
    #[arg(short = 'n', long, value_name = "N", value_parser = units::at_least(1_u64))]
    count: Option<u64>,
    /// Show every sample as a JSON document of one line, which needs no terminal
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// Shorter intervals would mostly measure the sampling itself.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(60);
/// Time that the server may take before the screen says so.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time that a key may wait.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Rows by which a page key scrolls.
const PAGE: isize = 10;

impl Top {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let interval = self.interval.clamp(INTERVAL_MIN, INTERVAL_MAX);
        let options = self.target.options()?;
        let connection = self.target.connect_for("statistics")?;
        let interrupt = Interrupt::watch()?;
        if self.json {
            documents(connection, interval, self.count, &interrupt)?;
            return Ok(ExitCode::SUCCESS);
        }
        if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            return Err(Failure::usage(
                "top draws on a terminal; say --json for documents, or use `ipc stats`",
            ));
        }
        let mut watch = Watch {
            history: History::default(),
            view: View::new(
                connection.endpoint().to_string(),
                self.target.app().to_owned(),
                self.sort,
                Output::new(false).colours,
            ),
            interval,
            left: self.count,
            sampler: Sampler::start(options, connection)?,
        };
        let mut terminal = ratatui::try_init().map_err(|error| cannot_draw(&error))?;
        let ended = watch.run(&mut terminal, &interrupt);
        ratatui::restore();
        ended?;
        Ok(ExitCode::SUCCESS)
    }
}

fn cannot_draw(error: &io::Error) -> Failure {
    Failure::runtime(format!("cannot draw on this terminal: {error}"))
}

fn documents(
    mut connection: Connection,
    interval: Duration,
    count: Option<u64>,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let output = Output::new(true);
    let mut history = History::default();
    let mut shown = 0;
    // The rates of the first sample are unknown, because there is nothing to compare it with.
    while !interrupt.is_noted() && count != Some(shown) {
        if shown > 0 {
            interrupt.sleep(interval);
        }
        history.add(Sample::take(&mut connection)?);
        output.document(&history.document())?;
        shown += 1;
    }
    Ok(())
}

struct Watch {
    sampler: Sampler,
    history: History,
    view: View,
    interval: Duration,
    left: Option<u64>,
}

impl Watch {
    fn run(
        &mut self,
        terminal: &mut ratatui::DefaultTerminal,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        let mut next = Instant::now();
        let mut is_changed = true;
        while !interrupt.is_noted() {
            if Instant::now() >= next {
                if self.left == Some(0) {
                    break;
                }
                if !self.view.is_paused {
                    self.sampler.want();
                }
                next = Instant::now() + self.interval;
            }
            is_changed |= self.look_at_sample();
            if is_changed {
                self.view.interval = self.interval;
                terminal
                    .draw(|frame| self.view.draw(frame, &self.history))
                    .map_err(|error| cannot_draw(&error))?;
            }
            let soon = next.saturating_duration_since(Instant::now()).min(LOOK_EVERY);
            // The event is a key, or a new size of the screen.
            is_changed = event::poll(soon).map_err(|error| cannot_draw(&error))?;
            if is_changed
                && let Event::Key(key) = event::read().map_err(|error| cannot_draw(&error))?
                && !self.press(key)
            {
                break;
            }
        }
        Ok(())
    }

    /// Looks for a new sample. Returns whether there is something new to show.
    fn look_at_sample(&mut self) -> bool {
        let waited = self.sampler.waited();
        let Some(taken) = self.sampler.taken() else {
            if waited <= PATIENCE {
                return false;
            }
            let waited = humantime::format_duration(Duration::from_secs(waited.as_secs()));
            let trouble = Some(format!("the server has not answered for {waited}"));
            return std::mem::replace(&mut self.view.trouble, trouble) != self.view.trouble;
        };
        self.left = self.left.map(|left| left.saturating_sub(1));
        match taken {
            Ok((endpoint, sample)) => {
                self.view.endpoint = endpoint.to_string();
                self.history.add(sample);
                self.view.trouble = None;
            }
            Err(failure) => self.view.trouble = Some(failure.to_string()),
        }
        true
    }

    /// Handles a key. Returns whether to go on.
    fn press(&mut self, key: KeyEvent) -> bool {
        if key.kind == KeyEventKind::Release {
            return true;
        }
        let is_ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            // In raw mode Ctrl-C arrives as a key.
            KeyCode::Char('c') if is_ctrl => return false,
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Char('c') => self.view.sort_by(Sort::Channel),
            KeyCode::Char('r') => self.view.sort_by(Sort::Requests),
            KeyCode::Char('p') => self.view.sort_by(Sort::Publications),
            KeyCode::Char('d') => self.view.sort_by(Sort::P99),
            KeyCode::Char('n') => self.view.sort_by(Sort::Subscribers),
            KeyCode::Char(' ') => self.view.is_paused = !self.view.is_paused,
            KeyCode::Char('+') => self.interval = (self.interval / 2).max(INTERVAL_MIN),
            KeyCode::Char('-') => self.interval = (self.interval * 2).min(INTERVAL_MAX),
            KeyCode::Down | KeyCode::Char('j') => self.view.scroll(1),
            KeyCode::Up | KeyCode::Char('k') => self.view.scroll(-1),
            KeyCode::PageDown => self.view.scroll(PAGE),
            KeyCode::PageUp => self.view.scroll(-PAGE),
            KeyCode::Home => self.view.scroll(isize::MIN),
            KeyCode::End => self.view.scroll(isize::MAX),
            _ => {}
        }
        true
    }
}
