"""The package's console programs, as they are installed, against the demo.

They connect to port 8888 and sleep a lot, so the two simulations run from the start of the class on, while the chat
is tested.
"""

import contextlib
import pathlib
import re
import sys

from ipc_framework import FrameworkClient

from processes import PROGRAMS_PORT, Process, programs_port
from server import InteropTest

BIN = pathlib.Path(sys.executable).parent

# The names that `ipc-file sim` makes up. They are spelled out, and no pattern below ends at the end of a line, because
# the programs print from several threads: text and line end are written apart, so another thread's text may stand
# between them.
FILE = r"(Client_\d_[a-z]+\.[a-z0-9]{3})"


class Programs(InteropTest):
    port = PROGRAMS_PORT

    @classmethod
    def setUpClass(cls):
        stack = contextlib.ExitStack()
        cls.addClassCleanup(stack.close)
        stack.enter_context(programs_port())
        super().setUpClass()
        cls.files = cls.start("ipc-file", "sim")
        cls.monitor = cls.start("ipc-monitor", "sim")

    @classmethod
    def start(cls, name: str, *arguments: str) -> Process:
        program = Process(BIN / name, *arguments)
        cls.addClassCleanup(program.kill)
        return program

    def subscribers(self, observer: FrameworkClient, channel: str) -> int:
        return self.system(observer, "list_channels").get(channel, {}).get("subscribers", 0)

    def chatter(self, name: str, observer: FrameworkClient, count: int) -> Process:
        """A running `ipc-chat` that has subscribed, as the `count`th one."""
        program = self.start("ipc-chat", name)
        self.addCleanup(program.kill)
        program.expect("You are in #general")
        for channel in ("general", "tech_talk", "random"):
            self.eventually(
                f"{name} is a subscriber of {channel}",
                lambda: self.subscribers(observer, channel) == count,
            )
        return program

    def test_alert(self):
        # unittest orders tests by name, so this is the first one, and the monitor still has most of its 30 seconds.
        self.monitor.expect("=== Started monitoring 3 systems ===")
        notifier = self.client("monitoring")
        self.eventually("all three watch for alerts", lambda: self.subscribers(notifier, "alerts") == 3)
        # The program's own metrics are random, from 10 to 95, so these values can only be the test's.
        for metric, value in (("memory_usage", 195.25), ("cpu_usage", 79.125), ("cpu_usage", 95.375)):
            notifier.notify("metrics", {"metric": metric, "value": value, "client": "test", "timestamp": 0})
        self.monitor.expect(r"Current: 95\.375%", count=3)
        self.monitor.expect("   Threshold: 80%", count=3)
        output = self.monitor.output
        self.assertEqual(output.count("Current: 95.375%"), 3)
        self.assertIn("🚨 ALERT [WARNING]: high_cpu_alert", output)
        # They were sent before, so they would have been shown before.
        self.assertNotIn("195.25", output)
        self.assertNotIn("79.125", output)

    def test_chat(self):
        observer = self.client("chat_app")
        alice = self.chatter("alice", observer, 1)
        bob = self.chatter("bob", observer, 2)
        # It announces itself when it subscribes, and again when it enters its first channel.
        alice.expect(r"\[general\] \*\*\* bob joined the channel \*\*\*", count=2)
        alice.expect(r"\[tech_talk\] \*\*\* bob joined the channel \*\*\*")
        alice.expect(r"\[random\] \*\*\* bob joined the channel \*\*\*")

        alice.type_line("hello bob, says żółw")
        bob.expect(r"\[general\] alice: hello bob, says żółw")
        bob.type_line("hello alice")
        alice.expect(r"\[general\] bob: hello alice")

        alice.type_line("/join tech_talk")
        alice.expect("Switched to #tech_talk")
        # Alice was there first, so this is the only time that bob sees her join.
        bob.expect(r"\[tech_talk\] \*\*\* alice joined the channel \*\*\*")
        alice.type_line("over here")
        bob.expect(r"\[tech_talk\] alice: over here")
        alice.type_line("/who")
        alice.expect("You are alice in #tech_talk")

        for program in (alice, bob):
            program.type_line("/quit")
            self.assertEqual(program.wait(), 0, program.output)
            self.assertIn("Disconnected from chat server.", program.output)
            self.assertNotIn("Connection to server lost", program.output)
            self.assertNotIn("handler error", program.output)
        self.assertEqual(bob.output.count("alice: hello bob"), 1)
        self.assertEqual(bob.output.count("alice joined the channel"), 1)
        self.assertEqual(alice.output.count("bob: hello alice"), 1)
        for channel in ("general", "tech_talk", "random"):
            self.eventually(f"{channel} is empty", lambda: self.subscribers(observer, channel) == 0)

    def test_files(self):
        self.assertEqual(self.files.wait(), 0, self.files.output)
        output = self.files.output
        self.assertIn("=== Starting file operations with 3 clients ===", output)
        self.assertIn("=== File operations completed ===", output)
        for fault in ("timed out", "N/A", "Connection to server lost", "handler error", "Failed to"):
            self.assertNotIn(fault, output)
        # Each of three clients asks for one file of each other client.
        self.assertEqual(output.count("Requesting download:"), 6)
        self.assertEqual(output.count("Download ready:"), 6)
        requested = re.findall(rf"Requesting download: {FILE}", output)
        self.assertEqual(len(requested), 6)
        self.assertEqual(re.findall(rf"  URL: http://example\.com/files/{FILE}", output), requested)
        expiries = [int(seconds) for seconds in re.findall(r"  Expires in: (-?\d+) seconds", output)]
        self.assertEqual(len(expiries), 6)
        self.assertGreater(min(expiries), 0)
        # Each upload is reported to all three.
        uploads = re.findall(rf"Upload request sent for {FILE}", output)
        self.assertGreaterEqual(len(uploads), 3)
        self.assertEqual(len(uploads), output.count("Uploading file:"))
        for name in set(uploads):
            status = f"[STATUS] Upload {name}: 100% - completed"
            self.assertEqual(output.count(status), 3 * uploads.count(name), output)

    def test_monitor(self):
        self.assertEqual(self.monitor.wait(), 0, self.monitor.output)
        output = self.monitor.output
        self.assertIn("=== Monitoring simulation completed ===", output)
        for fault in ("Error in monitoring loop", "Connection to server lost", "handler error", "Failed to"):
            self.assertNotIn(fault, output)
        for system in ("web-server-1", "db-server", "api-gateway"):
            self.assertRegex(output, rf"\[{system}\] cpu_usage: \d+\.\d%")
            self.assertIn(f"[{system}] Metrics sent at ", output)
