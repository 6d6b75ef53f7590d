"""Programs whose threads or loops are other people's: gevent, eventlet, servers of web and task frameworks,
and notebooks.

They run in an environment of their own, which `tests/python.py` makes.
"""

import concurrent.futures
import json
import os
import pathlib
import signal
import subprocess
import urllib.request

import pytest
from peers import Process, RustServer, STEP_SECONDS_MAX, free_port

HERE = pathlib.Path(__file__).resolve().parent / "schedulers"
PYTHON = os.environ.get("IPC_SCHEDULERS_PYTHON", "")


def command(*arguments):
    assert PYTHON, "run the tests by tests/python.py, which makes the environment for these"
    return [PYTHON, "-W", "ignore::DeprecationWarning", *map(str, arguments)]


def run(*arguments, **environment):
    options = {"capture_output": True, "text": True, "timeout": STEP_SECONDS_MAX, "env": {**os.environ, **environment}}
    try:
        ended = subprocess.run(command(*arguments), **options)
    except subprocess.TimeoutExpired as hung:
        raise AssertionError(f"it hangs: {hung.stdout!r} {hung.stderr!r}") from None
    assert (ended.returncode, ended.stdout) == (0, "all is well\n"), ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr, ended.stderr


@pytest.mark.parametrize("scheduler", ["gevent", "eventlet"])
def test_a_client_lets_other_greenlets_go_on(scheduler, tmp_path):
    path = tmp_path / "ipc.sock"
    server = RustServer("--unix", path)
    run(HERE / "client_program.py", scheduler, server.port, path, server.process.pid)
    server.stop()


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("scheduler", ["gevent", "eventlet"])
def test_a_server_lets_other_greenlets_go_on(scheduler, workers):
    run(HERE / "server_program.py", scheduler, workers)


@pytest.mark.parametrize("scheduler", ["gevent", "eventlet"])
def test_a_child_of_greenlets_stands_in_nobodys_way(scheduler):
    run(HERE / "fork_program.py", scheduler)


def get(port, number):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{number}", timeout=STEP_SECONDS_MAX) as answer:
        return json.load(answer)


def serves(port, server):
    """Whether a web server answers many at once, and ends when it is told to."""
    try:
        server.expect(r"Listening at|Uvicorn running")
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda number: get(port, number), range(40)))
        assert [answer["path"] for answer in answers] == [f"/{number}" for number in range(40)]
        server.signal(signal.SIGTERM)
        code = server.wait()
        assert code in (0, -signal.SIGTERM), server.output
        assert "Traceback" not in server.output, server.output
    finally:
        server.kill()


@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["each loads", "preload"])
@pytest.mark.parametrize("kind", ["sync", "gthread", "gevent"])
def test_workers_of_gunicorn(rust, kind, preload):
    port = free_port()
    flags = ["--bind", f"127.0.0.1:{port}", "--workers", "2", "--worker-class", kind, "--chdir", HERE, *preload]
    serves(port, Process(*command("-m", "gunicorn", *flags, "web:wsgi"), IPC_PORT=str(rust.port)))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_uvicorn(rust, loop):
    port = free_port()
    flags = ["--port", port, "--loop", loop, "--lifespan", "on", "--app-dir", HERE]
    serves(port, Process(*command("-m", "uvicorn", *flags, "web:asgi"), IPC_PORT=str(rust.port)))


def test_a_notebook(rust):
    run(HERE / "notebook.py", rust.port)


def test_workers_of_celery(rust, tmp_path):
    environment = {"IPC_PORT": str(rust.port), "IPC_CELERY_HOME": str(tmp_path), "PYTHONPATH": str(HERE)}
    app, pool = ["--app", "tasks", "--workdir", tmp_path], ["--pool", "prefork", "--concurrency", "2"]
    worker = Process(*command("-m", "celery", *app, "worker", *pool, "--loglevel", "info"), **environment)
    try:
        worker.expect("ready")
        run("-c", "import tasks; tasks.main()", **environment)
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0, worker.output
    finally:
        worker.kill()
