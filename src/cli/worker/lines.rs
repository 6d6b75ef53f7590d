//! One run of a command each of whose lines is a part of the answer.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitStatus;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytesize::ByteSize;
use ipc_framework::client::{Error, PartSender};

use super::command::{Bounds, Command, Run, reason};
use super::json_or_text;

impl Command {
    /// Runs the command, and sends each line that it prints as soon as it is whole. While the
    /// requester takes no more, the command's output is not read. Returns the reason if the answer
    /// has to end with an error; the outer error means that the command cannot be run at all.
    pub(super) fn stream(
        &self,
        channel: &str,
        input: &[u8],
        bounds: &Bounds,
        parts: &mut PartSender,
    ) -> io::Result<Result<(), String>> {
        let (bell, ringer) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        ringer.set_nonblocking(true)?;
        parts.on_credit(move || {
            // If it is full it has been rung.
            let _ = { &ringer }.write(&[0]);
        });
        let mut run = Run::start(self.spawn(channel)?, input, bounds)?;
        let mut lines = Lines { run: &mut run, parts, bell };
        let ended = lines.until_the_end();
        let status = match ended {
            Ok(Some(status)) => status,
            Ok(None) => {
                run.kill();
                return Ok(Ok(()));
            }
            Err(reason) => {
                run.kill();
                return Ok(Err(reason));
            }
        };
        Ok(if status.success() { Ok(()) } else { Err(reason(&run.complained, status)) })
    }
}

struct Lines<'a, 'b> {
    run: &'a mut Run<'b>,
    parts: &'a mut PartSender,
    /// Becomes readable when the requester takes more, or gives up.
    bell: UnixStream,
}

impl Lines<'_, '_> {
    /// Sends lines up to the end of the process. Returns none if nobody wants them any more.
    fn until_the_end(&mut self) -> Result<Option<ExitStatus>, String> {
        loop {
            if self.parts.is_cancelled() {
                return Ok(None);
            }
            let status = self.run.child.try_wait().map_err(|error| error.to_string())?;
            let (held_bytes, was_paused) = (self.run.printed.len(), self.run.is_paused);
            // This comes after the check for the end, so that it reads the last output.
            self.run.move_bytes();
            // There may be more to read if it was not tried, or if it brought something.
            let may_read = was_paused || self.run.printed.len() > held_bytes;
            if !self.send_lines()? {
                return Ok(None);
            }
            if let Some(status) = status
                && !may_read
                && !self.run.is_paused
            {
                let last = std::mem::take(&mut self.run.printed);
                // The last line may lack its end, and waits for its turn as the others do.
                let is_wanted = last.is_empty() || self.send_last(&last)?;
                return Ok(is_wanted.then_some(status));
            }
            if self.run.bounds.killed.load(Ordering::Relaxed) {
                return Err("the worker was told to end at once; ask again".to_owned());
            }
            if self.run.printed.len() > self.run.bounds.output_bytes && !self.run.is_paused {
                let most = ByteSize(self.run.bounds.output_bytes as u64);
                return Err(format!(
                    "the command printed a line of more than {most} and was killed; have it print \
                     shorter lines, or start the worker with a larger --max-output-bytes"
                ));
            }
            let left = self.run.bounds.time.saturating_sub(self.run.begin.elapsed());
            if left.is_zero() && !self.run.is_paused {
                let time = humantime::format_duration(self.run.bounds.time);
                return Err(format!(
                    "the command printed no line for {time} and was killed; ask for less, or start \
                     the worker with a longer --command-timeout"
                ));
            }
            self.run.wait(left, Some(&self.bell));
            self.hush();
        }
    }

    /// Sends the whole lines that were read, as many as the requester takes. Returns false if it
    /// wants none any more.
    fn send_lines(&mut self) -> Result<bool, String> {
        let mut sent = 0;
        self.run.is_paused = false;
        while let Some(length) = self.run.printed[sent..].iter().position(|byte| *byte == b'\n') {
            let line = &self.run.printed[sent..sent + length];
            match self.parts.try_send(&json_or_text(line)?) {
                Ok(true) => sent += length + 1,
                Ok(false) => {
                    self.run.is_paused = true;
                    break;
                }
                Err(Error::Cancelled { .. }) => return Ok(false),
                Err(error) => return Err(error.to_string()),
            }
        }
        // The time for the next line begins when this one is gone.
        if sent > 0 || self.run.is_paused {
            self.run.begin = Instant::now();
        }
        self.run.printed.drain(..sent);
        Ok(true)
    }

    fn send_last(&mut self, line: &[u8]) -> Result<bool, String> {
        match self.parts.send(&json_or_text(line)?) {
            Ok(()) => Ok(true),
            Err(Error::Cancelled { .. }) => Ok(false),
            Err(error) => Err(error.to_string()),
        }
    }

    fn hush(&mut self) {
        let mut rings = [0; 64];
        while let Ok(1..) = self.bell.read(&mut rings) {}
    }
}
