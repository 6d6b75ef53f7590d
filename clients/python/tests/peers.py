"""The servers that the clients are tested against, as processes of their own."""

import codecs
import itertools
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

REPO = pathlib.Path(__file__).resolve().parents[3]
BINARY = os.environ.get("IPC_BIN") or REPO / "target" / "debug" / "ipc"
#: Python with the published package, as `tests/interop/run.py` made it.
PUBLISHED_PYTHON = REPO / "target" / "interop-venv" / "bin" / "python"
#: To find what hangs, not an expectation.
STEP_SECONDS_MAX = 60.0


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

    def expect(self, pattern, count=1):
        """Waits until `pattern` stands in the output `count` times; returns the matches."""
        matches = []

        def found():
            matches[:] = re.finditer(pattern, self._output)
            return len(matches) >= count or self._ended

        with self._changed:
            self._changed.wait_for(found, STEP_SECONDS_MAX)
            assert len(matches) >= count, f"{self.command}: no {pattern!r} in its output:\n{self._output}"
        return matches

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, seconds_max=STEP_SECONDS_MAX):
        """Waits for the end of the process and of its output; returns the exit code."""
        try:
            code = self.process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.command} did not end:\n{self.output}") from None
        self._drain.join(STEP_SECONDS_MAX)
        return code

    def kill(self):
        self.process.kill()
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        self._drain.join(STEP_SECONDS_MAX)


class RustServer(Process):
    """`ipc serve --demo`, listening once the constructor returns."""

    def __init__(self, *flags, port=0, **environment):
        assert os.access(BINARY, os.X_OK), f"{BINARY} is missing: run `cargo build --features cli`"
        super().__init__(BINARY, "serve", "--demo", "--port", port, *flags, **environment)
        (found, *_) = self.expect(r"listening on 127\.0\.0\.1:(\d+)\s")
        self.port = int(found[1])
        self.arguments = {"host": "127.0.0.1", "port": self.port}

    def stop(self):
        """Asks the server to end, and asserts that it ended well and never panicked."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            code = self.wait()
        finally:
            self.kill()
        assert code == 0 and "panicked" not in self.output, self.output


class PublishedServer(Process):
    """The published package's server, see `published_server.py`."""

    def __init__(self, port=0):
        assert PUBLISHED_PYTHON.exists(), f"{PUBLISHED_PYTHON} is missing: run `python3 tests/interop/run.py`"
        program = pathlib.Path(__file__).with_name("published_server.py")
        super().__init__(PUBLISHED_PYTHON, program, port or free_port(), PYTHONNOUSERSITE="1", PYTHONPATH="")
        (found, *_) = self.expect(r"listening on (\d+)\s")
        self.port = int(found[1])
        self.arguments = {"host": "127.0.0.1", "port": self.port}

    def stop(self):
        self.kill()


class OwnServer(Process):
    """This package's `FrameworkServer`, running the program that `PublishedServer` runs."""

    def __init__(self, port=0):
        program = pathlib.Path(__file__).with_name("published_server.py")
        super().__init__(sys.executable, program, port or free_port())
        (found, *_) = self.expect(r"listening on (\d+)\s")
        self.port = int(found[1])
        self.arguments = {"host": "127.0.0.1", "port": self.port}

    def stop(self):
        self.kill()


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
