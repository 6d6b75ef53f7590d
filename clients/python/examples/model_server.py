"""Serves a model: what many clients ask at a time becomes one batch, and one multiplication.

    python model_server.py 8888
    ipc request score '[0.5, 1.5, 0, 2]' --app model
"""

from __future__ import annotations

import asyncio
import sys
from typing import List, Optional, Tuple

import numpy as np

from ipc_framework import FrameworkServer, Message

BATCH_MAX = 64
#: Seconds for which the first request of a batch waits for others.
BATCH_SECONDS = 0.002


class Model:
    """A layer of random but fixed weights, in place of yours."""

    features = 4

    def __init__(self) -> None:
        self.weights = np.random.default_rng(7).normal(size=(self.features, 3))

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        exponents = np.exp(batch @ self.weights)
        scores: np.ndarray = exponents / exponents.sum(axis=1, keepdims=True)
        return scores


class Batcher:
    """Collects inputs, and has the model look at all of them at once. It lives on the asyncio loop
    on which handlers run, and so needs no lock."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.waiting: List[Tuple[np.ndarray, "asyncio.Future[np.ndarray]"]] = []
        self.timer: Optional[asyncio.TimerHandle] = None
        self.batches = self.inputs = 0

    async def __call__(self, row: np.ndarray) -> np.ndarray:
        loop = asyncio.get_running_loop()
        answer: "asyncio.Future[np.ndarray]" = loop.create_future()
        self.waiting.append((row, answer))
        if len(self.waiting) == BATCH_MAX:
            self.run()
        elif self.timer is None:
            self.timer = loop.call_later(BATCH_SECONDS, self.run)
        return await answer

    def run(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        batch, self.waiting = self.waiting, []
        self.batches += 1
        self.inputs += len(batch)
        scores = self.model(np.stack([row for row, _ in batch]))
        for (_, answer), score in zip(batch, scores):
            if not answer.done():
                answer.set_result(score)


def main() -> None:
    server = FrameworkServer(port=int(sys.argv[1]) if len(sys.argv) > 1 else 8888)
    model = server.create_application("model", "A Model")
    batcher = Batcher(Model())

    @model.create_channel("score").serve
    async def score(request: Message) -> List[float]:
        row = np.asarray(request.payload, dtype=float)
        if row.shape != (Model.features,):
            raise ValueError(f"an input is a list of {Model.features} numbers")
        return [round(float(value), 6) for value in await batcher(row)]

    @model.create_channel("batches").serve
    async def batches(request: Message) -> List[int]:
        return [batcher.batches, batcher.inputs]

    server.start()
    print(f"serves on port {server.port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
