"""The types of the client half: mypy in strict mode over what programs write."""

import os
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent


def mypy(*arguments):
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", os.devnull, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=HERE)


def test_usages():
    checked = mypy("types/client_usages.py")
    assert checked.returncode == 0, checked.stdout


def test_what_is_wrong_is_found(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from ipc_framework import FrameworkClient, aio\n"
        "client = FrameworkClient(1)\n"
        "client.send_request('channel', 1).payload\n"
        "client.serve('channel', 'no function')\n"
        "client.subscribe(handler=print)\n"
        "async def f(client: aio.Client) -> None:\n"
        "    client.request('channel', 1).payload\n"
    )
    checked = mypy(wrong)
    lines = re.findall(r"wrong\.py:(\d+): error", checked.stdout)
    assert lines == ["2", "3", "4", "5", "7"], checked.stdout
