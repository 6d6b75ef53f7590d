"""The model-serving example, asked from Node.js and from Rust."""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import sys
from typing import Iterator

import pytest

from peers import REPO, STEP_SECONDS_MAX

EXAMPLE = pathlib.Path(__file__).resolve().parents[1] / "examples" / "model_server.py"
IPC = REPO / "target" / "debug" / "ipc"

FRONT_END = """
const { IPCClient } = require(process.argv[1]);
(async () => {
    const client = new IPCClient('model', { port: Number(process.argv[2]) });
    await client.connect();
    const asked = Array.from({ length: 50 }, (_, n) => client.sendRequest('score', [n / 50, 1, 0, 2]));
    const scores = (await Promise.all(asked)).map((answer) => answer.payload);
    const batches = (await client.sendRequest('batches', null)).payload;
    console.log(JSON.stringify({ scores, batches }));
    client.disconnect();
})();
"""


@pytest.fixture
def port() -> Iterator[int]:
    server = subprocess.Popen([sys.executable, "-u", str(EXAMPLE), "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield int(server.stdout.readline().rsplit(" ", 1)[1])
        server.send_signal(signal.SIGINT)
        assert server.wait(STEP_SECONDS_MAX) == 0
    finally:
        server.kill()
        server.communicate()


def test_a_front_end_in_node_asks_and_the_answers_are_batched(port: int) -> None:
    command = ["node", "-e", FRONT_END, str(REPO / "clients" / "node"), str(port)]
    asked = subprocess.run(command, capture_output=True, text=True, timeout=STEP_SECONDS_MAX)
    assert asked.returncode == 0, asked.stderr
    told = json.loads(asked.stdout)
    assert all(abs(sum(scores) - 1) < 1e-5 for scores in told["scores"])
    assert told["scores"][0] != told["scores"][49]
    batches, inputs = told["batches"]
    assert inputs == 50 and batches < 25, "they are looked at together"


def test_rust_asks_and_is_told_what_is_wrong(port: int) -> None:
    assert IPC.exists(), f"{IPC} is missing: run cargo build --features cli"

    def ask(payload: str) -> "subprocess.CompletedProcess[str]":
        command = [str(IPC), "request", "score", payload, "--app", "model", "--port", str(port)]
        return subprocess.run(command, capture_output=True, text=True, timeout=STEP_SECONDS_MAX)

    scored = ask("[0.5, 1.5, 0, 2]")
    assert scored.returncode == 0 and len(json.loads(scored.stdout)) == 3, scored.stderr
    refused = ask("[1]")
    assert refused.returncode == 1 and "a list of 4 numbers" in refused.stderr + refused.stdout
