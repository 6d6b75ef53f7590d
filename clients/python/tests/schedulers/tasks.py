"""A Celery application whose tasks ask a channel of the server at `IPC_PORT`; its queue is a folder."""

import os
import pathlib

from celery import Celery
from ipc_framework import FrameworkClient

home = pathlib.Path(os.environ["IPC_CELERY_HOME"])
for name in ("queue", "results"):
    (home / name).mkdir(exist_ok=True)
app = Celery("tasks", broker="filesystem://", backend=f"file://{home / 'results'}")
queue = str(home / "queue")
app.conf.broker_transport_options = {"data_folder_in": queue, "data_folder_out": queue, "control_folder": queue}

# Connected in the process that forks the workers.
client = FrameworkClient("bench", "127.0.0.1", int(os.environ["IPC_PORT"]))
assert client.connect()


@app.task
def ask(number):
    if not client.connected:
        assert client.connect()
    return [client.send_request("echo", number, 10.0).payload, os.getpid()]


def main():
    results = [ask.delay(number) for number in range(8)]
    answers = [result.get(timeout=50) for result in results]
    assert [answer for answer, _ in answers] == list(range(8)), answers
    assert os.getpid() not in {pid for _, pid in answers}
    print("all is well", flush=True)
