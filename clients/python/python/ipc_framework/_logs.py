"""The log as the published package shows it."""

from __future__ import annotations

import logging
import os
import sys

logger = logging.getLogger("ipc_framework")


def flag(name: str) -> bool:
    """Returns whether a variable of the environment is set to something that means yes."""
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on")


def print_log() -> None:
    """Prints the log to standard output, as the published package does."""
    if not any(isinstance(handler, _Printer) for handler in logger.handlers):
        logger.addHandler(_Printer())
        logger.setLevel(min(logger.level or logging.INFO, logging.INFO))
        logger.propagate = False


class _Printer(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stdout, flush=True)
