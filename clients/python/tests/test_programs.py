"""The console programs: this package's, and the published ones, unmodified, against this package's server."""

import os
import pathlib
import re
import signal
import sys

import pytest
from peers import PUBLISHED_PYTHON, Process, RustServer, STEP_SECONDS_MAX, eventually, free_port, programs_port

from ipc_framework import FrameworkClient

BIN = pathlib.Path(sys.executable).parent
PUBLISHED_BIN = PUBLISHED_PYTHON.parent
FILE = r"(Client_\d_[a-z]+\.[a-z0-9]{3})"


class OwnIpcServer(Process):
    """`ipc-server`, as it is installed."""

    def __init__(self, port):
        super().__init__(BIN / "ipc-server", "--port", port)
        self.port = port
        self.arguments = {"host": "127.0.0.1", "port": port}
        self.expect("Server is running")

    def stop(self):
        self.signal(signal.SIGINT)
        code = self.wait()
        self.kill()
        assert code == 0 and "Server stopped." in self.output and "Traceback" not in self.output, self.output


@pytest.fixture(scope="module", params=["ipc serve --demo", "ipc-server"])
def server(request):
    started = RustServer() if request.param == "ipc serve --demo" else OwnIpcServer(free_port())
    yield started
    started.stop()


def program(server, name, *arguments):
    return Process(BIN / name, *arguments, "--port", server.port)


def test_chat(server):
    check_chat(lambda name: program(server, "ipc-chat", name), server)


def check_chat(chat, server):
    with FrameworkClient("chat_app", **server.arguments) as observer:

        def subscribers():
            channels = observer.send_request("system", {"action": "list_channels"}, STEP_SECONDS_MAX).payload
            return [channels.get(channel, {}).get("subscribers", 0) for channel in ("general", "tech_talk", "random")]

        alice = chat("alice")
        alice.expect("You are in #general")
        eventually("alice listens", lambda: subscribers() == [1, 1, 1])
        bob = chat("bob")
        bob.expect("You are in #general")
        eventually("bob listens", lambda: subscribers() == [2, 2, 2])
        alice.expect(r"\[general\] \*\*\* bob joined the channel \*\*\*")
        alice.type_line("hello bob, says żółw")
        bob.expect(r"\[general\] alice: hello bob, says żółw")
        alice.type_line("/join tech_talk")
        bob.expect(r"\[tech_talk\] \*\*\* alice joined the channel \*\*\*")
        alice.type_line("over here")
        bob.expect(r"\[tech_talk\] alice: over here")
        alice.type_line("/who")
        alice.expect("You are alice in #tech_talk")
        for one in (alice, bob):
            one.type_line("/quit")
            assert one.wait() == 0, one.output
            assert "Disconnected from chat server." in one.output and "Traceback" not in one.output
            one.kill()
        eventually("nobody listens", lambda: subscribers() == [0, 0, 0])


def test_files(server):
    check_files(program(server, "ipc-file", "sim"))


def check_files(files):
    assert files.wait(120) == 0, files.output
    output = files.output
    assert "=== File operations completed ===" in output
    for fault in ("timed out", "refused", "N/A", "Traceback", "Failed to"):
        assert fault not in output, output
    requested = re.findall(rf"Requesting download: {FILE}", output)
    assert len(requested) == 6 and output.count("Download ready:") == 6
    assert re.findall(rf"  URL: http://example\.com/files/{FILE}", output) == requested
    uploads = re.findall(rf"Upload request sent for {FILE}", output)
    for name in set(uploads):
        assert output.count(f"[STATUS] Upload {name}: 100% - completed") == 3 * uploads.count(name), output
    files.kill()


def test_files_by_hand(server):
    files = program(server, "ipc-file")
    files.type_line("Ada")
    files.expect("Ada. > ")
    files.type_line("upload notes.txt 12")
    files.expect("Upload notes.txt: 100% - completed")
    files.type_line("upload notes.txt many")
    files.expect("Invalid command or missing arguments")
    files.type_line("download notes.txt")
    files.expect("URL: http://example.com/files/notes.txt")
    files.type_line("quit")
    assert files.wait() == 0, files.output
    files.kill()


def test_monitor(server):
    check_monitor(program(server, "ipc-monitor", "sim", "--seconds", "2"), server)


def check_monitor(monitor, server, seconds_max=STEP_SECONDS_MAX):
    monitor.expect("=== Started monitoring 3 systems ===")
    with FrameworkClient("monitoring", **server.arguments) as notifier:

        def watching():
            channels = notifier.send_request("system", {"action": "list_channels"}, STEP_SECONDS_MAX).payload
            return channels.get("alerts", {}).get("subscribers", 0)

        eventually("all three watch for alerts", lambda: watching() == 3)
        for metric, value in (("memory_usage", 195.25), ("cpu_usage", 79.125), ("cpu_usage", 95.375)):
            notifier.notify("metrics", {"metric": metric, "value": value})
        monitor.expect(r"Current: 95\.375%", count=3)
    assert monitor.wait(seconds_max) == 0, monitor.output
    output = monitor.output
    assert "=== Monitoring simulation completed ===" in output
    assert "195.25" not in output and "79.125" not in output
    for fault in ("Error in monitoring loop", "Traceback", "Failed to"):
        assert fault not in output, output
    for system in ("web-server-1", "db-server", "api-gateway"):
        assert re.search(rf"\[{system}\] cpu_usage: \d+\.\d%", output), output
    monitor.kill()


def test_monitor_by_hand(server):
    monitor = program(server, "ipc-monitor")
    monitor.type_line("Ada")
    for line, shown in (
        ("metric cpu_usage 99", "Current: 99"),
        ("metric cpu_usage much", "Invalid value"),
        ("status", "Current system metrics:"),
        ("start 100", r"\[Ada\] Metrics sent at"),
        ("stop", "Monitoring stopped"),
    ):
        monitor.type_line(line)
        monitor.expect(shown)
    monitor.type_line("quit")
    assert monitor.wait() == 0, monitor.output
    monitor.kill()


def test_demo():
    demo = Process(BIN / "ipc-demo", "--port", free_port())
    check_demo(demo)
    assert "no_handler" in demo.output


def check_demo(demo):
    assert demo.wait(60) == 0, demo.output
    output = demo.output
    for shown in (
        "💬 [Chat] Alice: Hello everyone!",
        "💬 [Chat] Bob: Hi Alice! How are you?",
        "📁 [File] upload: document.pdf",
        "📊 [Metrics] cpu_usage: 45%",
        "🚨 ALERT",
        "Expected error from",
        "🎉 Demo completed!",
    ):
        assert shown in output, output
    assert output.count("📢 ANNOUNCEMENT: ") == 2, output
    assert "Traceback" not in output and "💥" not in output
    demo.kill()


def test_demo_as_a_module():
    check_demo(Process(sys.executable, "-m", "ipc_framework.demo", "--port", free_port()))


def test_without_a_server_they_say_what_to_do():
    for name, arguments in (("ipc-chat", ["Ada"]), ("ipc-file", ["sim"]), ("ipc-monitor", ["sim"])):
        alone = Process(BIN / name, *arguments, "--port", "1")
        assert alone.wait() == 1, alone.output
        assert "start it with `ipc serve --port 1`" in alone.output
        alone.kill()


#: Runs the published demo's own file inside this package.
RUN_PUBLISHED_DEMO = """
import importlib.util, ipc_framework, sys
spec = importlib.util.spec_from_file_location("ipc_framework.published_demo", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.main()
"""


def published(name, *arguments):
    assert PUBLISHED_PYTHON.exists(), f"{PUBLISHED_PYTHON} is missing: run `python3 tests/interop/run.py`"
    return Process(PUBLISHED_BIN / name, *arguments, PYTHONPATH="", PYTHONNOUSERSITE="1")


def test_the_published_programs_talk_to_this_packages_server():
    with programs_port() as port:
        own = OwnIpcServer(port)
        files, monitor = published("ipc-file", "sim"), published("ipc-monitor", "sim")
        check_chat(lambda name: published("ipc-chat", name), own)
        check_files(files)
        check_monitor(monitor, own, seconds_max=120)
        own.stop()


def test_the_published_demo_runs_on_this_package():
    (found,) = (PUBLISHED_PYTHON.parent.parent / "lib").glob("python3*/site-packages/ipc_framework/demo.py")
    with programs_port():
        check_demo(Process(sys.executable, "-c", RUN_PUBLISHED_DEMO, found))
    assert os.fspath(found).count("site-packages") == 1
