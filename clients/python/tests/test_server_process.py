"""Servers and the life of their process: its end, Ctrl-C, fork, and other interpreters."""

from __future__ import annotations

import re
import signal
import subprocess
from typing import Any, Tuple

import pytest

from ipc_framework import FrameworkServer
from peers import STEP_SECONDS_MAX
from wire import Peer, script

SERVER = """
    import os, sys, threading, time
    from ipc_framework import FrameworkServer, Message, MessageType
    server = FrameworkServer(port=0, **{options})
    app = server.create_application("app")
    app.create_channel("echo").serve(lambda request: request.payload)
    server.start()
    print(server.port, flush=True)
"""


class Remote(FrameworkServer):
    """Only to say where another process listens."""

    def __init__(self, port: int) -> None:
        super().__init__(port=port)


def begin(rest: str = "", options: str = "{}") -> "Tuple[subprocess.Popen[str], FrameworkServer]":
    process = script(SERVER.replace("{options}", options) + rest)
    assert process.stdout is not None
    return process, Remote(int(process.stdout.readline()))


def end(process: "subprocess.Popen[str]") -> Tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=STEP_SECONDS_MAX)
    finally:
        process.kill()
    return process.returncode, out, err


def test_a_program_whose_last_line_starts_a_server_serves_until_ctrl_c() -> None:
    rest = """
    server.stop()
    server.port = 0
    def begin():
        print("listens soon", flush=True)
        server.start()
    import logging; logging.basicConfig(level="INFO", stream=sys.stdout, format="%(message)s")
    begin()
    """.rstrip()
    process, _ = begin(rest)
    assert process.stdout is not None and process.stdout.readline() == "listens soon\n"
    told = re.search(r"has ended; port (\d+) is served", "".join(process.stdout.readline() for _ in range(2)))
    assert told is not None
    there = Remote(int(told[1]))
    peer = Peer(there)
    assert peer.ask("echo", 1) == 1
    process.send_signal(signal.SIGINT)
    assert peer.receive()["payload"]["code"] == "shutting_down"
    peer.close()
    code, _, err = end(process)
    assert (code, err) == (0, "")


def test_ctrl_c_that_comes_while_the_last_line_is_done_is_not_lost() -> None:
    rest = """
    import signal
    class Late(FrameworkServer):
        def start(self):
            super().start(), signal.raise_signal(signal.SIGINT)
    late = Late(port=0)
    late.start()
    """.rstrip()
    process, _ = begin(rest)
    code, _, err = end(process)
    assert code == -signal.SIGINT and "KeyboardInterrupt" in err


@pytest.mark.parametrize(
    "rest, options, expected",
    [
        ("\n    raise ValueError('a bug')", "{}", 1),
        ("\n    time.sleep(0)", "{}", 0),
        ("\n    threading.Thread(target=server.start).start()", "{}", 0),
        ("\n    server.stop(); server.port = 0; server.start()", "{'daemon': True}", 0),
        ("\n    server.stop(); server.port = 0; sys.ps1 = 'a session'; server.start()", "{}", 0),
        ("\n    sys.exit(5)", "{}", 5),
        ("\n    os._exit(3)", "{}", 3),
        ("\n    server.stop(); sys.exit(4)", "{'workers': 2}", 4),
    ],
)
def test_a_program_that_is_to_end_ends(rest: str, options: str, expected: int) -> None:
    process, _ = begin(rest, options)
    code, _, err = end(process)
    assert code == expected, err
    assert "Fatal" not in err and "Exception ignored" not in err, err


READY = "print('ready', flush=True)"
SLEEPS = f"\n    try:\n        {READY}\n        while True: time.sleep(1)\n    except KeyboardInterrupt:"
LOOPS = [
    SLEEPS + "\n        print('bye')",
    SLEEPS + "\n        server.stop()\n        print('bye')",
    f"\n    wait, server.wait = server.wait, lambda: ({READY}, wait())[1]"
    "\n    server.serve_forever()\n    print('bye')",
]


@pytest.mark.parametrize("rest", LOOPS)
def test_ctrl_c_ends_it_the_published_way_and_by_serve_forever(rest: str) -> None:
    process, there = begin(rest)
    peer = Peer(there)
    assert peer.ask("echo", 1) == 1
    peer.close()
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert end(process) == (0, "bye\n", "")


def test_the_interpreter_ends_while_handlers_run() -> None:
    rest = """
    import asyncio
    app.create_channel("busy").serve(lambda request: time.sleep(0.02))
    async def never(request): await asyncio.sleep(3600)
    app.create_channel("never").set_handler(MessageType.REQUEST, never)
    print("ready", flush=True)
    input()
    """
    process, there = begin(rest, "{'workers': 2, 'daemon': True, 'limits': {'drain_timeout': 0.2}}")
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    peer = Peer(there)
    for _ in range(50):
        peer.send("request", "busy", None)
    peer.send("request", "never", None)
    assert peer.receive()["payload"] is None
    process.stdin.write("\n")
    code, _, err = end(process)
    assert code == 0 and "Fatal" not in err, err


@pytest.mark.parametrize("ending, expected", [("sys.exit(5)", 5), ("raise ValueError('a bug')", 1)])
def test_a_server_that_is_no_daemon_holds_the_process(ending: str, expected: int) -> None:
    process, there = begin(f"\n    {ending}", "{'daemon': False}")
    peer = Peer(there)
    assert peer.ask("echo", 1) == 1
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    assert peer.ask("echo", 2) == 2
    process.send_signal(signal.SIGINT)
    assert peer.receive()["payload"]["code"] == "shutting_down"
    peer.close()
    code, _, err = end(process)
    assert code == expected and ("a bug" in err) == ("a bug" in ending)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_handler_that_does_not_return_does_not_hold_the_process(workers: int) -> None:
    rest = """
    def stuck(request):
        print("stuck", flush=True)
        while True: time.sleep(0.002)
    app.create_channel("stuck").serve(stuck)
    print("ready", flush=True)
    input()
    sys.exit(7)
    """
    options = {"workers": workers, "daemon": True, "limits": {"drain_timeout": 0.1}}
    process, there = begin(rest, repr(options))
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    peer = Peer(there)
    peer.send("request", "stuck", None)
    assert process.stdout.readline() == "stuck\n"
    process.stdin.write("\n")
    process.stdin.flush()
    code, _, err = end(process)
    assert code == 7 and "left behind" in err and "Fatal" not in err, err


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("ending, code", [("sys.exit(3)", 3), ("raise ValueError('a bug')", 1), ("return", 0)])
def test_a_child_forked_by_a_handler_does_not_serve_in_its_parents_place(workers: int, ending: str, code: int) -> None:
    rest = f"""
    import warnings; warnings.simplefilter("ignore")
    def fork():
        pid = os.fork()
        if pid == 0: {ending}
        return pid
    def handler(request):
        pid = fork()
        if pid: return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    app.create_channel("fork").serve(handler)
    async def later(request): return handler(request)
    app.create_channel("later").serve(later)
    print("ready", flush=True)
    input()
    """
    process, there = begin(rest, repr({"workers": workers, "daemon": True}))
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    peer = Peer(there)
    assert peer.ask("fork") == code
    assert peer.ask("later") == code
    for n in range(20):
        other = Peer(there, connection_id=f"other {n}")
        assert other.ask("echo", n) == n
        other.close()
    process.stdin.write("\n")
    process.stdin.flush()
    ended, _, err = end(process)
    assert ended == 0 and ("a bug" in err) == ("a bug" in ending), err


def test_a_forked_child_has_no_server_and_ends() -> None:
    rest = """
    import warnings; warnings.simplefilter("ignore")
    def child():
        assert not server.running and server.get_stats()["total_connections"] == 0
        server.stop()
        app.create_channel("more").add_subscriber("x")
        assert server.connection_manager.get_connection("me") is None
        own = FrameworkServer(port=0)
        own.create_application("app").create_channel("echo").serve(lambda request: "child")
        own.start()
        own.stop()
        server.port = 0
        server.start()
        print(server.port, flush=True)
        input()
        server.stop()
    input()
    pid = os.fork()
    if pid == 0:
        child()
        sys.exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), server.running, flush=True)
    server.stop()
    """
    process, there = begin(rest)
    peer = Peer(there)
    assert peer.ask("echo", 1) == 1
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    child = Peer(Remote(int(process.stdout.readline())))
    assert child.ask("echo", "in the child") == "in the child", "what was set up starts anew"
    assert peer.ask("echo", 2) == 2, "the parent still serves"
    child.close()
    peer.close()
    process.stdin.write("\n")
    code, out, err = end(process)
    assert (code, out) == (0, "0 True\n"), err


def test_another_interpreter_is_refused() -> None:
    program = """
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters
    from ipc_framework import FrameworkServer
    other = interpreters.create()
    try:
        failure = interpreters.run_string(other, "from ipc_framework import FrameworkServer")
        if failure is not None: raise RuntimeError(failure.formatted)
    except Exception as error:
        print(error)
    """
    code, out, err = end(script(program))
    # Newer Pythons know it before the module is asked.
    refused = ("one interpreter of a process", "does not support loading in subinterpreters")
    assert code == 0 and any(text in out for text in refused), (out, err)


def test_servers_of_one_process_ask_one_another(serve: Any) -> None:
    front, back = serve(), serve()

    @back.create_application("back").create_channel("double").serve  # type: ignore[untyped-decorator]
    def double(request: Any) -> Any:
        return front.get_stats()["total_connections"] + 2 * request.payload

    @front.create_application("front").create_channel("api").serve  # type: ignore[untyped-decorator]
    def api(request: Any) -> Any:
        return [back.get_stats()["total_connections"], request.payload]

    front.start()
    back.start()
    one, two = Peer(front, "front"), Peer(back, "back")
    assert one.ask("api", 3) == [1, 3]
    assert two.ask("double", 4) == 9
