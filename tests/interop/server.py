"""The server under test as a subprocess, and what every interop test needs around it."""

import codecs
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest

from ipc_framework import FrameworkClient

# Deadlines for hang detection, far above what any step takes.
STEP_SECONDS_MAX = 60
PROGRAM_SECONDS_MAX = 120

# The package's console programs connect to this port only.
PROGRAMS_PORT = 8888


class Process:
    """A subprocess whose output is collected by a thread, so that it never blocks on a full pipe."""

    def __init__(self, command, **environment):
        self.command = [str(part) for part in command]
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
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
    def output(self) -> str:
        with self._changed:
            return self._output

    def type_line(self, line: str):
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def expect(self, pattern: str, count: int = 1, seconds_max: float = STEP_SECONDS_MAX):
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

    def wait(self, seconds_max: float = PROGRAM_SECONDS_MAX) -> int:
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


class Server(Process):
    """`ipc serve --demo`, listening once the constructor returns."""

    def __init__(self, port: int = 0):
        binary = os.environ.get("IPC_BIN")
        if not binary:
            raise AssertionError("IPC_BIN is not set: set it to a built `ipc`, or start tests/interop/run.py instead.")
        if port:
            require_free(port)
        super().__init__([binary, "serve", "--demo", "--host", "localhost", "--port", port])
        try:
            # The published client speaks only IPv4, so that is the address to wait for.
            (line, *_) = self.expect(r"listening on (127\.\d+\.\d+\.\d+):(\d+)\s")
        except AssertionError:
            self.kill()
            raise
        self.port = int(line[2])

    def stop(self):
        """Asks the server to end, and asserts that it ended well and never panicked."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.wait(STEP_SECONDS_MAX)
        finally:
            self.kill()
        if code != 0 or "panicked" in self.output:
            raise AssertionError(f"the server ended with exit code {code} after SIGTERM:\n{self.output}")


def require_free(port: int):
    with socket.socket() as probe:
        # Servers set this option too, so connections in TIME_WAIT do not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise AssertionError(
                f"port {port} is taken ({error}): the package's console programs know no other, "
                "so stop what listens there and run again."
            ) from None


class InteropTest(unittest.TestCase):
    """A class of tests with one server; what the server printed is shown when a test fails."""

    port = 0

    @classmethod
    def setUpClass(cls):
        cls.server = Server(cls.port)
        cls.addClassCleanup(cls.server.stop)

    def run(self, result=None):
        result = result or self.defaultTestResult()
        faults = len(result.failures) + len(result.errors)
        super().run(result)
        if len(result.failures) + len(result.errors) > faults:
            print(f"\nthe server's output up to here:\n{self.server.output}", file=sys.__stderr__, flush=True)
        return result

    def client(self, app: str = "") -> FrameworkClient:
        """A connected client; without a name, of the application that belongs to this test alone."""
        client = FrameworkClient(app or self.id(), port=self.server.port)
        self.assertIs(client.connect(), True)
        self.addCleanup(cut, client)
        return client

    def fence(self, *clients: FrameworkClient):
        """Returns when everything these clients sent before is done, and all that was queued for them has arrived.

        A connection is processed in order, and `ping` is answered on the same one.
        """
        for client in clients:
            self.assertTrue(client.ping(timeout=STEP_SECONDS_MAX), "a ping was not answered")

    def ask(self, client: FrameworkClient, channel: str, payload):
        """The payload of the answer to a request."""
        answer = client.send_request(channel, payload, timeout=STEP_SECONDS_MAX)
        self.assertIsNotNone(answer, f"no answer to {str(payload)[:100]} on {channel}")
        return answer.payload

    def system(self, client: FrameworkClient, action: str, **arguments):
        return self.ask(client, "system", {"action": action, **arguments})

    def assert_refused(self, payload, code: str):
        """An error as the protocol words it: these three keys, this code, a sentence for people."""
        self.assertIsInstance(payload, dict)
        self.assertEqual(payload.get("status"), "error", payload)
        self.assertEqual(payload.get("code"), code, payload)
        self.assertIsInstance(payload["error"], str)
        self.assertGreater(len(payload["error"]), 0)
        self.assertEqual(set(payload), {"status", "code", "error"})

    def eventually(self, what: str, condition):
        """Waits for something that another connection or process brings about; returns what `condition` gave."""
        deadline = time.monotonic() + STEP_SECONDS_MAX
        while not (value := condition()):
            self.assertLess(time.monotonic(), deadline, f"never happened: {what}")
            time.sleep(0.01)
        return value


def send_async(client: FrameworkClient, channel: str, payload, callback) -> str:
    """`send_request_async`, without losing the callback to an answer that is faster than the client.

    The client registers the callback after it has sent. Its receive thread takes this lock before it looks for one.
    """
    with client._response_lock:
        return client.send_request_async(channel, payload, callback)


def cut(client: FrameworkClient):
    """Ends a connection at once, as the death of its process would.

    The client's own `disconnect` closes a descriptor its receive thread is blocked on, so the kernel keeps the
    connection until the next byte comes in. One test covers exactly that; all others want to be gone.
    """
    connection, receiver = client.socket, client.receive_thread
    if connection is not None:
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the server was first
        if receiver is not None and receiver is not threading.current_thread():
            receiver.join(STEP_SECONDS_MAX)
        connection.close()
