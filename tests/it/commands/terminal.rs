//! A pseudo-terminal that runs a program, with its screen in memory.

use super::spawn;
use crate::support::until;
use std::io::{Read, Write};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// The default size of a terminal, which the parser uses by default as well.
const ROWS: u16 = 24;
const COLUMNS: u16 = 80;

/// Python gives the program a controlling terminal, which would take `unsafe` here. It forwards
/// input and output, and ends with the program's exit code.
const HOST: &str = "import os, pty, sys\n\
    status = pty.spawn(['sh', '-c', 'stty rows \"$ROWS\" cols \"$COLUMNS\"; exec \"$@\"', \
    'sh'] + sys.argv[1:])\n\
    sys.exit(os.waitstatus_to_exitcode(status))\n";

pub(crate) struct Terminal {
    child: Child,
    screen: Arc<Mutex<vt100::Parser>>,
    reading: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Runs the command, with its environment, on a terminal.
    pub(crate) fn run(command: &Command) -> Self {
        let mut host = Command::new("python3");
        host.args(["-c", HOST]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => host.env(name, value),
                None => host.env_remove(name),
            };
        }
        host.env("TERM", "xterm-256color");
        host.env("ROWS", ROWS.to_string()).env("COLUMNS", COLUMNS.to_string());
        let mut child = spawn(host);
        let mut output = child.stdout.take().unwrap();
        let screen = Arc::new(Mutex::new(vt100::Parser::default()));
        let written = screen.clone();
        let reading = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                written.lock().unwrap().process(&bytes[..read]);
            }
        });
        Self { child, screen, reading: Some(reading) }
    }

    pub(crate) fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    pub(crate) fn has_colours(&self) -> bool {
        let parser = self.screen.lock().unwrap();
        let cells = (0..ROWS).flat_map(|row| (0..COLUMNS).map(move |column| (row, column)));
        let mut shown = cells.filter_map(|(row, column)| parser.screen().cell(row, column));
        shown.any(|cell| cell.fgcolor() != vt100::Color::Default)
    }

    /// Waits until the screen satisfies the condition, and returns its text.
    pub(crate) fn wait_until(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        until(what, || self.text(), |text| is_so(text))
    }

    pub(crate) fn press(&mut self, keys: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(keys.as_bytes()).and_then(|()| stdin.flush()).unwrap();
    }

    /// Waits for the end, and returns the exit code and the text that is left on the screen.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        self.reading.take().unwrap().join().unwrap();
        (code, self.text())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It has ended already unless the test failed. Closing the terminal ends the program on it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
