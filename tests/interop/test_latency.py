"""The published client, unmodified, is answered without the delay that the published server gives it.

The client sends the header and the body of a frame apart, and leaves Nagle's algorithm on: its kernel holds the body
back until the header is acknowledged. A server that does nothing about it lets every request wait for a delayed ACK.
"""

import statistics
import sys
import threading
import time

from ipc_framework import FrameworkClient

from processes import STEP_SECONDS_MAX, PublishedServer
from server import InteropTest, cut, send_async

REQUESTS = 200
# A busy machine can spoil a round; one good one is enough.
ROUNDS_MAX = 5


class Latency(InteropTest):
    def test_round_trips_take_less_than_a_tenth_of_the_published_servers(self):
        theirs = PublishedServer()
        self.addCleanup(theirs.stop)
        texts = []
        for _ in range(ROUNDS_MAX):
            figures = {
                "ipc serve": self.round_trip_median(self.server.port),
                "published server": self.round_trip_median(theirs.port),
            }
            texts.append(", ".join(f"{name} {seconds * 1000:.3f} ms" for name, seconds in figures.items()))
            print(f"\nmedian of {REQUESTS} round trips: {texts[-1]}", file=sys.__stderr__, flush=True)
            if figures["ipc serve"] < figures["published server"] / 10:
                return
        self.fail("; ".join(texts))

    def round_trip_median(self, port: int) -> float:
        client = FrameworkClient("bench", port=port)
        self.assertTrue(client.connect())
        self.addCleanup(cut, client)
        payload = {"connection_id": client.connection_id, "text": "x" * 100}
        samples = []
        for _ in range(REQUESTS):
            # A callback is used, because `send_request` looks for its answer only once in 10 ms.
            answered, answers = threading.Event(), []

            def callback(message):
                samples.append(time.perf_counter() - begin)
                answers.append(message.payload)
                answered.set()

            begin = time.perf_counter()
            send_async(client, "echo", payload, callback)
            self.assertTrue(answered.wait(STEP_SECONDS_MAX), "a request was not answered")
            self.assertEqual(answers, [payload])
        return statistics.median(samples)
