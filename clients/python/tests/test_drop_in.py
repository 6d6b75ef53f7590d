"""Programs of the published package, and its clients, against this package as they stand."""

from __future__ import annotations

import pathlib
import re
import signal
import socket
import subprocess
import sys
from typing import Any

import published
from ipc_framework import Message, MessageType
from peers import PUBLISHED_PYTHON, REPO, STEP_SECONDS_MAX, eventually, programs_port
from wire import script


def test_the_published_tests_pass() -> None:
    tests = published.source() / "tests" / "test_basic.py"
    # By the name of this package's interpreter: `ipc_framework` is found where it is installed.
    run = subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-B", str(tests), "-v"],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=STEP_SECONDS_MAX * 2,
    )
    assert run.returncode == 0 and re.search(r"Ran 7 tests", run.stderr), run.stderr


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("localhost", port), STEP_SECONDS_MAX).close()
    except ConnectionRefusedError:
        return False
    return True


def test_both_halves_of_the_first_example_work(tmp_path: pathlib.Path) -> None:
    modules = tmp_path / "node_modules" / "@ifesol"
    modules.mkdir(parents=True)
    (modules / "ipc-framework-nodejs").symlink_to(REPO / "clients" / "node")
    (tmp_path / "server.py").write_text(published.first_example("python"), encoding="utf-8")
    (tmp_path / "client.js").write_text(published.first_example("javascript"), encoding="utf-8")
    with programs_port():
        check_first_example(tmp_path)


def check_first_example(tmp_path: pathlib.Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-u", "server.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        eventually("its start, for which the port 8888 has to be free", lambda: accepts(8888) or server.poll())
        client = subprocess.run(
            ["node", "client.js"], cwd=tmp_path, capture_output=True, timeout=STEP_SECONDS_MAX, encoding="utf-8"
        )
        assert client.returncode == 0 and client.stderr == "", client.stderr
        assert "Response from Python:" in client.stdout and "Hello from Python!" in client.stdout, client.stdout
        server.send_signal(signal.SIGINT)
        assert server.wait(STEP_SECONDS_MAX) == 0
    finally:
        server.kill()
        server.communicate()


PUBLISHED_CLIENT = """
    import sys, threading
    from ipc_framework import FrameworkClient, MessageType
    import ipc_framework
    assert "interop-venv" in ipc_framework.__file__
    heard = threading.Event()
    client = FrameworkClient("app", port=int(sys.argv[1]))
    assert client.connect() and client.ping()
    print(client.send_request("api", {"n": 20}).payload)
    print(client.send_request("unserved", {}).payload["code"])
    client.subscribe("news", lambda message: (print(message.payload), heard.set()))
    client.ping()
    client.publish("news", "from a client")
    assert heard.wait(30)
    heard.clear()
    client.notify("start", None)
    assert heard.wait(30)
    client.disconnect()
    assert client.connect() and client.ping()
    client.disconnect()
"""


def test_the_published_client_with_this_server(serve: Any) -> None:
    assert PUBLISHED_PYTHON.exists(), f"{PUBLISHED_PYTHON} is missing: run python3 tests/interop/run.py"
    server = serve()
    app = server.create_application("app")

    def api(message: Message) -> None:
        connection = server.connection_manager.get_connection(message.payload.get("connection_id"))
        server.send_to_connection(connection, message.create_response({"double": 2 * message.payload["n"]}))

    def begin(message: Message) -> None:
        news = Message("", "app", "news", MessageType.NOTIFICATION, "from the server", 0)
        server._handle_publish(news, app.get_channel("news"))

    app.create_channel("api").set_handler(MessageType.REQUEST, api)
    app.create_channel("start").set_handler(MessageType.NOTIFICATION, begin)
    server.start()
    client = script(PUBLISHED_CLIENT, server.port, python=PUBLISHED_PYTHON)
    out, err = client.communicate(timeout=STEP_SECONDS_MAX)
    assert client.returncode == 0, err
    said = [line for line in out.splitlines() if "onnected" not in line]
    assert said == ["{'double': 40}", "no_handler", "from a client", "from the server"]
