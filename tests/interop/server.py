"""What every interop test needs around the server under test."""

import socket
import sys
import threading
import unittest

import processes
from ipc_framework import FrameworkClient
from processes import STEP_SECONDS_MAX, RustServer


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
        if cls.port:
            require_free(cls.port)
        cls.server = RustServer(port=cls.port)
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
        return processes.eventually(what, condition)


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
