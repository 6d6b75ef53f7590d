//! One run of a command, whose time and output are bounded.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, Child, ChildStdin, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Access;
use rustix::io::ioctl_fionbio;
use rustix::process::{Pid, Signal, kill_process_group};

/// Time until it is noticed that the process ended without closing its output, or is to be killed.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Time until it is noticed that a process which closed its output has ended too.
const LOOK_EVERY_AT_THE_END: Duration = Duration::from_millis(1);
/// Bytes read between checks of the limits, even if a command prints without pause. A pipe whose
/// writer has ended holds less.
const READS_AT_A_TIME: usize = 64;
/// Bytes kept of the end of standard error, where the reason of a failure is.
const STDERR_BYTES_KEPT: usize = 4 << 10;
/// Bytes of the reason that are shown, which fit on a few lines.
const REASON_CHARS_MAX: usize = 500;

#[derive(Debug)]
pub(super) struct Bounds {
    pub(super) time: Duration,
    pub(super) output_bytes: usize,
    /// Set if the running command is to be killed.
    pub(super) killed: Arc<AtomicBool>,
}

#[derive(Debug)]
pub(super) struct Command {
    program: String,
    arguments: Vec<String>,
}

impl Command {
    /// The first element is the program.
    pub(super) fn new(words: Vec<String>) -> Self {
        let mut words = words.into_iter();
        Self { program: words.next().unwrap_or_default(), arguments: words.collect() }
    }

    /// Checks whether the program is there and may be run, without running it: by its path, or in
    /// the directories of PATH.
    pub(super) fn check(&self) -> io::Result<()> {
        let may_run = |path: &Path| {
            if path.metadata()?.is_dir() {
                return Err(ErrorKind::IsADirectory.into());
            }
            Ok(rustix::fs::access(path, Access::EXEC_OK)?)
        };
        if self.program.contains('/') {
            return may_run(Path::new(&self.program));
        }
        // Without the variable the system looks in places of its own.
        let Some(directories) = std::env::var_os("PATH") else { return Ok(()) };
        let mut found = Err(io::Error::new(ErrorKind::NotFound, "no directory of PATH has it"));
        for directory in std::env::split_paths(&directories) {
            match may_run(&directory.join(&self.program)) {
                Ok(()) => return Ok(()),
                // One that may not be run tells more than one that is not there.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => found = Err(error),
                Err(_) => {}
            }
        }
        found
    }

    pub(super) fn program(&self) -> &str {
        &self.program
    }

    /// Runs the command, and kills it if the request is over before. Returns its output, or the
    /// reason why there is no answer; the outer error means that the command cannot be run at all.
    pub(super) fn run(
        &self,
        channel: &str,
        input: &[u8],
        bounds: &Bounds,
        is_over: &dyn Fn() -> bool,
    ) -> io::Result<Result<Vec<u8>, String>> {
        let mut run = Run::start(self.spawn(channel)?, input, bounds)?;
        let ended = run.until_it_ends(is_over);
        let status = match ended {
            Ok(status) => status,
            Err(too_much) => {
                run.kill();
                return Ok(Err(too_much));
            }
        };
        Ok(if status.success() { Ok(run.printed) } else { Err(reason(&run.complained, status)) })
    }

    pub(super) fn spawn(&self, channel: &str) -> io::Result<Child> {
        let mut command = process::Command::new(&self.program);
        command.args(&self.arguments).env("IPC_CHANNEL", channel);
        // The command must not see the token.
        command.env_remove("IPC_TOKEN");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A process group of its own can be killed as a whole, and does not receive our Ctrl-C.
        command.process_group(0);
        command.spawn()
    }
}

/// A process and the pipes to it, none of which is waited for alone.
pub(super) struct Run<'a> {
    pub(super) child: Child,
    /// `None` when the process has all its input, or has closed it.
    stdin: Option<ChildStdin>,
    unsent: &'a [u8],
    stdout: Option<process::ChildStdout>,
    stderr: Option<process::ChildStderr>,
    pub(super) printed: Vec<u8>,
    pub(super) complained: Vec<u8>,
    pub(super) bounds: &'a Bounds,
    pub(super) begin: Instant,
    /// Set while the output is not read, because nobody takes it.
    pub(super) is_paused: bool,
}

impl<'a> Run<'a> {
    pub(super) fn start(mut child: Child, input: &'a [u8], bounds: &'a Bounds) -> io::Result<Self> {
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut run = Self {
            child,
            stdin,
            unsent: input,
            stdout,
            stderr,
            printed: Vec::new(),
            complained: Vec::new(),
            bounds,
            begin: Instant::now(),
            is_paused: false,
        };
        run.never_block().inspect_err(|_| run.kill())?;
        Ok(run)
    }

    fn never_block(&self) -> io::Result<()> {
        self.stdin.as_ref().map_or(Ok(()), |pipe| ioctl_fionbio(pipe, true))?;
        self.stdout.as_ref().map_or(Ok(()), |pipe| ioctl_fionbio(pipe, true))?;
        self.stderr.as_ref().map_or(Ok(()), |pipe| ioctl_fionbio(pipe, true))?;
        Ok(())
    }

    /// Waits for the end of the process, or until it exceeds a limit.
    fn until_it_ends(&mut self, is_over: &dyn Fn() -> bool) -> Result<ExitStatus, String> {
        loop {
            let status = self.child.try_wait().map_err(|error| error.to_string())?;
            // This comes after the check for the end, so that it reads the last output. Output of
            // other processes that the command started is not waited for.
            self.move_bytes();
            if self.printed.len() > self.bounds.output_bytes {
                let most = ByteSize(self.bounds.output_bytes as u64);
                return Err(format!(
                    "the command printed more than {most} and was killed; have it print less, or \
                     start the worker with a larger --max-output-bytes"
                ));
            }
            if let Some(status) = status {
                return Ok(status);
            }
            if self.bounds.killed.load(Ordering::Relaxed) {
                return Err("the worker was told to end at once; ask again".to_owned());
            }
            if is_over() {
                return Err(
                    "the command was killed, because nobody waits for its answer".to_owned()
                );
            }
            let left = self.bounds.time.saturating_sub(self.begin.elapsed());
            if left.is_zero() {
                let time = humantime::format_duration(self.bounds.time);
                return Err(format!(
                    "the command took longer than {time} and was killed; ask for less, or start \
                     the worker with a longer --command-timeout"
                ));
            }
            self.wait(left, None);
        }
    }

    /// Waits until a pipe is ready, or it is time for other checks.
    pub(super) fn wait(&self, left: Duration, bell: Option<&UnixStream>) {
        let is_closed = self.stdout.is_none() && self.stderr.is_none() && !self.is_paused;
        let longest = if is_closed { LOOK_EVERY_AT_THE_END } else { LOOK_EVERY };
        let mut pipes = Vec::with_capacity(4);
        pipes.extend(bell.map(|bell| PollFd::new(bell, PollFlags::IN)));
        pipes.extend(self.stdin.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
        let stdout = self.stdout.as_ref().filter(|_| !self.is_paused);
        pipes.extend(stdout.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        pipes.extend(self.stderr.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        let timeout = Timespec::try_from(left.min(longest)).ok();
        // Waking too early does no harm, because the loop checks everything again.
        let _ = poll(&mut pipes, timeout.as_ref());
    }

    pub(super) fn move_bytes(&mut self) {
        if let Some(stdin) = &mut self.stdin {
            // The command may leave its input unread.
            if feed(stdin, &mut self.unsent) {
                self.stdin = None;
            }
        }
        // One byte more shows that the output is too large.
        let room = self.bounds.output_bytes.saturating_add(1);
        if let Some(stdout) = &mut self.stdout
            && !self.is_paused
            && drain(stdout, |bytes| {
                let taken = bytes.len().min(room - self.printed.len());
                self.printed.extend_from_slice(&bytes[..taken]);
                self.printed.len() < room
            })
        {
            self.stdout = None;
        }
        if let Some(stderr) = &mut self.stderr
            && drain(stderr, |bytes| {
                self.complained.extend_from_slice(bytes);
                let surplus = self.complained.len().saturating_sub(STDERR_BYTES_KEPT);
                self.complained.drain(..surplus);
                true
            })
        {
            self.stderr = None;
        }
    }

    /// Kills it with all processes that it started. It has not been waited for yet, so its process
    /// id has not been reused.
    pub(super) fn kill(&mut self) {
        // A process that has left the group cannot be reached, and holds none of our ends of the
        // pipes.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Writes as much as fits. Returns whether everything has been written.
fn feed(stdin: &mut ChildStdin, unsent: &mut &[u8]) -> bool {
    while !unsent.is_empty() {
        match stdin.write(unsent) {
            Ok(written) => *unsent = &unsent[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
    true
}

/// Reads available bytes, up to the limit. Returns whether no more will come.
fn drain(pipe: &mut impl Read, mut take: impl FnMut(&[u8]) -> bool) -> bool {
    let mut bytes = [0; 16 << 10];
    for _ in 0..READS_AT_A_TIME {
        match pipe.read(&mut bytes) {
            Ok(0) => return true,
            Ok(read) if take(&bytes[..read]) => {}
            Ok(_) => return false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
    false
}

/// Returns the last line of its standard error, or its exit status.
pub(super) fn reason(complained: &[u8], status: ExitStatus) -> String {
    let text = String::from_utf8_lossy(complained);
    let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    last.map_or_else(
        || format!("the command failed: {status}"),
        |line| line.chars().take(REASON_CHARS_MAX).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(
        script: &str,
        input: &[u8],
        output_bytes: usize,
        time: Duration,
    ) -> Result<Vec<u8>, String> {
        let command = Command::new(["sh", "-c", script].map(str::to_owned).to_vec());
        let bounds = Bounds { time, output_bytes, killed: Arc::default() };
        command.run("channel", input, &bounds, &|| false).expect("there is a shell")
    }

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(200);

    #[test]
    fn what_is_printed_may_be_as_much_as_was_said_and_no_more() {
        assert_eq!(run("printf 12345", b"", 5, LONG).unwrap(), b"12345");
        let text = run("printf 123456", b"", 5, LONG).unwrap_err();
        assert!(text.contains("more than 5 B") && text.contains("--max-output-bytes"), "{text}");
        assert!(run("yes", b"", 1 << 20, LONG).is_err(), "it would go on for ever");
        // The reason comes after a lot of other output.
        let complaint = run("yes | head -c 1000000 >&2; echo why >&2; exit 1", b"", 5, LONG);
        assert_eq!(complaint.unwrap_err(), "why");
    }

    #[test]
    fn time_is_up_for_all_that_was_started() {
        // The pipe stays open as long as one of the processes lives: the shell waits for the other.
        let begin = Instant::now();
        let text = run("sleep 1000 | sleep 1000", b"", 5, SHORT).unwrap_err();
        assert!(text.contains("200ms") && text.contains("--command-timeout"), "{text}");
        assert!(begin.elapsed() >= SHORT);
        // It writes errors without pause.
        let text = run("exec yes >&2", b"", 5, SHORT).unwrap_err();
        assert!(text.contains("was killed"), "{text}");
        // It closes its output and goes on.
        let text = run("exec >&- 2>&-; sleep 1000", b"", 5, SHORT).unwrap_err();
        assert!(text.contains("was killed"), "{text}");
        // It never reads input for which the pipe has no room.
        let text = run("sleep 1000", &vec![b'x'; 1 << 20], 5, SHORT).unwrap_err();
        assert!(text.contains("was killed"), "{text}");
    }

    #[test]
    fn what_a_command_started_is_killed_with_it() {
        let file = std::env::temp_dir().join(format!("ipc-worker-group-{}", process::id()));
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        // Enough for the shell to start, however busy the machine is.
        assert!(run(&script, b"", 5, 10 * SHORT).is_err());
        let pid = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(file).unwrap();
        let begin = Instant::now();
        // The process that inherits it may be late to reap it.
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        while state().is_ok_and(|state| !state.contains(") Z ")) {
            assert!(begin.elapsed() < LONG, "it lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn one_that_leaves_another_behind_has_answered() {
        let left_behind = "sleep 1000 & echo $!";
        let pid = run(left_behind, b"", 100, LONG).unwrap();
        let pid = String::from_utf8(pid).unwrap();
        assert!(process::Command::new("kill").arg(pid.trim()).status().unwrap().success());
    }

    #[test]
    fn one_that_reads_nothing_of_much_is_right_to() {
        assert_eq!(run("echo 1", &vec![b'x'; 1 << 20], 5, LONG).unwrap(), b"1\n");
        let much = vec![b'x'; 1 << 20];
        assert_eq!(run("cat", &much, 1 << 20, LONG).unwrap(), much);
    }

    #[test]
    fn what_runs_is_killed_when_it_is_told() {
        let command = Command::new(["sleep", "1000"].map(str::to_owned).to_vec());
        let killed = Arc::new(AtomicBool::new(true));
        let bounds = Bounds { time: LONG, output_bytes: 5, killed };
        assert!(
            command
                .run("channel", b"", &bounds, &|| false)
                .unwrap()
                .unwrap_err()
                .contains("at once")
        );
        let bounds = Bounds { killed: Arc::default(), ..bounds };
        let over = command.run("channel", b"", &bounds, &|| true).unwrap().unwrap_err();
        assert!(over.contains("nobody waits"), "{over}");
        let missing = Command::new(vec!["/does/not/exist".to_owned()]);
        assert_eq!(
            missing.run("channel", b"", &bounds, &|| false).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }
}
