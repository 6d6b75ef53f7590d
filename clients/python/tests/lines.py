"""A line to a server that can be cut, or stand still."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import List, Optional

from peers import STEP_SECONDS_MAX, free_port


class Line:
    """Passes on what goes between clients and a server, from a port of its own. While it is cut nobody gets through.

    With `held_after` it stands still after so many bytes of the server's, until `release`.
    """

    def __init__(self, server_port: int, held_after: Optional[int] = None) -> None:
        self.port = free_port()
        self._held_after = held_after
        self._released = threading.Event()
        self._server_port = server_port
        self._lock = threading.Lock()
        self._sockets: List[socket.socket] = []
        self._threads: List[threading.Thread] = []
        self.mend()

    def mend(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        self._sockets.append(listener)
        self._start(self._accept, listener)

    def release(self) -> None:
        self._released.set()

    def cut(self) -> None:
        self.release()
        with self._lock:
            sockets, self._sockets = self._sockets, []
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(STEP_SECONDS_MAX)
        self._threads = []
        for one in sockets:
            one.close()

    def _start(self, run, *arguments) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server_port))
            with self._lock:
                if listener not in self._sockets:
                    client.close()
                    server.close()
                    return
                self._sockets += [client, server]
            self._start(self._pass_on, client, server, None)
            self._start(self._pass_on, server, client, self._held_after)

    def _pass_on(self, source: socket.socket, to: socket.socket, held_after: Optional[int]) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while piece := source.recv(65_536):
                passed += len(piece)
                if held_after is not None and passed > held_after:
                    self._released.wait(STEP_SECONDS_MAX)
                to.sendall(piece)
        for one in (source, to):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
