"""Callback round trips of the unmodified published client: `published_client.py PORT SECONDS`.

Prints one round trip in nanoseconds a line, without those of the first tenth of the time.
"""

import sys
import threading
import time

from ipc_framework import FrameworkClient

PAYLOAD_BYTES = 100
ANSWER_SECONDS_MAX = 10


def round_trip(client, payload):
    answered, answers = threading.Event(), []

    def callback(message):
        answers.append((time.perf_counter_ns(), message.payload))
        answered.set()

    begin = time.perf_counter_ns()
    # The client registers the callback after it has sent. Its receive thread takes this lock
    # before it looks for one, so that an answer can never be faster than the callback.
    with client._response_lock:
        client.send_request_async("echo", payload, callback)
    if not answered.wait(ANSWER_SECONDS_MAX):
        sys.exit("a request was not answered")
    (end, echoed), = answers
    if echoed != payload:
        sys.exit(f"the answer is {echoed!r}")
    return end - begin


def main():
    port, seconds = int(sys.argv[1]), float(sys.argv[2])
    client = FrameworkClient("bench", host="127.0.0.1", port=port)
    if not client.connect():
        sys.exit("the client does not connect")
    payload = {"connection_id": client.connection_id, "text": "x" * PAYLOAD_BYTES}
    samples = []
    begin = time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < seconds:
        sample = round_trip(client, payload)
        if elapsed > seconds / 10:
            samples.append(sample)
    print("samples:", *samples, sep="\n", flush=True)


main()
