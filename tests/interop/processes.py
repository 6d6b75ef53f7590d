"""Servers and programs as processes of their own, for the tests of every Python client."""

import codecs
import contextlib
import fcntl
import itertools
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time

REPO = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("IPC_BIN") or REPO / "target" / "debug" / "ipc"
#: The same program with NATS, which is no default feature of it.
NATS_BINARY = os.environ.get("IPC_NATS_BIN") or REPO / "target" / "ipc-nats"
#: NATS' own server, as `tests/nats-server` installs it.
NATS_SERVER = os.environ.get("IPC_TEST_NATS") or REPO / "target" / "nats" / "nats-server"
#: Python with the published package, as `run.py` here makes it.
PUBLISHED_PYTHON = REPO / "target" / "interop-venv" / "bin" / "python"
# Deadlines for hang detection, far above what any step takes.
STEP_SECONDS_MAX = 60.0
PROGRAM_SECONDS_MAX = 120.0
# The console programs of the published package connect to this port only.
PROGRAMS_PORT = 8888


@contextlib.contextmanager
def programs_port():
    """Holds the port of the published programs. Other tests that need it wait, also those of other processes."""
    path = pathlib.Path(tempfile.gettempdir(), f"ipc-framework-{os.getuid()}-port-{PROGRAMS_PORT}.lock")
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield PROGRAMS_PORT


class Process:
    """A subprocess whose output is collected by a thread, so that it never blocks on a full pipe."""

    def __init__(self, *command, **environment):
        self.command = [str(part) for part in command]
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", **environment},
        )
        self._changed = threading.Condition()
        self._output = ""
        self._ended = False
        self._drain = threading.Thread(target=self._collect, daemon=True)
        self._drain.start()

    def _collect(self):
        # The decoder is incremental, because a read may end inside a character.
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with self.process.stdout as pipe:
            for piece in iter(lambda: pipe.read1(65536), b""):
                with self._changed:
                    self._output += decoder.decode(piece)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def output(self):
        with self._changed:
            return self._output

    def type_line(self, line):
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def expect(self, pattern, count=1, seconds_max=STEP_SECONDS_MAX):
        """Waits until `pattern` stands in the output `count` times; returns the matches."""
        matches = []

        def found():
            matches[:] = re.finditer(pattern, self._output)
            return len(matches) >= count or self._ended

        with self._changed:
            self._changed.wait_for(found, seconds_max)
            if len(matches) < count:
                state = "ended" if self._ended else f"still ran after {seconds_max} s"
                raise AssertionError(
                    f"{' '.join(self.command)} {state}, with {len(matches)} of {count} times {pattern!r} "
                    f"in its output:\n{self._output}"
                )
        return matches

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, seconds_max=PROGRAM_SECONDS_MAX):
        """Waits for the end of the process and of its output; returns the exit code."""
        try:
            code = self.process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{' '.join(self.command)} did not end:\n{self.output}") from None
        self._drain.join(STEP_SECONDS_MAX)
        return code

    def kill(self):
        self.process.kill()
        self.process.wait(STEP_SECONDS_MAX)
        self.process.stdin.close()
        self._drain.join(STEP_SECONDS_MAX)


class Listening(Process):
    """A server, which listens once the constructor returns."""

    def __init__(self, *command, **environment):
        super().__init__(*command, **environment)
        try:
            # The published client speaks only IPv4, so that is the address to wait for.
            (found, *_) = self.expect(r"listening on 127\.\d+\.\d+\.\d+:(\d+)\s")
        except AssertionError:
            self.kill()
            raise
        self.port = int(found[1])
        self.arguments = {"host": "127.0.0.1", "port": self.port}


class RustServer(Listening):
    """`ipc serve --demo`."""

    binary = BINARY
    how = "run `cargo build --features cli`, or set IPC_BIN"

    def __init__(self, *flags, port=0, **environment):
        assert os.access(self.binary, os.X_OK), f"{self.binary} is missing: {self.how}"
        super().__init__(self.binary, "serve", "--demo", "--port", port, *flags, **environment)

    def stop(self):
        """Asks the server to end, and asserts that it ended well and never panicked."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            code = self.wait(STEP_SECONDS_MAX)
        finally:
            self.kill()
        assert code == 0 and "panicked" not in self.output, f"exit code {code} after SIGTERM:\n{self.output}"


class JoinedServer(RustServer):
    """`ipc serve --demo --nats`, which joins the others at the same NATS."""

    binary = NATS_BINARY
    how = "run `cargo build --features cli,nats`, and set IPC_NATS_BIN to the program"

    def __init__(self, nats, *flags, port=0):
        super().__init__("--nats", f"nats://127.0.0.1:{nats.port}", *flags, port=port)


class NatsServer(Process):
    """NATS' own server, which listens once the constructor returns."""

    def __init__(self):
        assert os.access(NATS_SERVER, os.X_OK), f"{NATS_SERVER} is missing: run tests/nats-server, or set IPC_TEST_NATS"
        self.port = free_port()
        super().__init__(NATS_SERVER, "--addr", "127.0.0.1", "--port", self.port)
        try:
            self.expect("Server is ready")
        except AssertionError:
            self.kill()
            raise


class ProgramServer(Listening):
    """The program `published_server.py`, with the package that this Python has."""

    def __init__(self, python, port=0):
        assert os.access(python, os.X_OK), f"{python} is missing: run `python3 tests/interop/run.py`"
        program = pathlib.Path(__file__).with_name("published_server.py")
        super().__init__(python, program, port or free_port(), "bench", PYTHONNOUSERSITE="1", PYTHONPATH="")

    def stop(self):
        self.kill()


class PublishedServer(ProgramServer):
    """The published package's server."""

    def __init__(self, port=0):
        super().__init__(PUBLISHED_PYTHON, port)


#: Ports that the kernel gives to nobody who asks for any; other tests make thousands of connections, which could take
#: such a port before a server is started there, or started again. Another process that runs tests begins elsewhere.
_PORTS = itertools.cycle(range(20_000, 30_000))
_PORTS = itertools.islice(_PORTS, os.getpid() * 37 % 10_000, None)


def free_port():
    """Returns a port that stays free until the test uses it."""
    for port in _PORTS:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def eventually(what, condition):
    """Waits for something that another thread or process brings about; returns what `condition` gave."""
    deadline = time.monotonic() + STEP_SECONDS_MAX
    while not (value := condition()):
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.01)
    return value
