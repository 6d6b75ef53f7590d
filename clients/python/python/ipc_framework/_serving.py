"""Served channels: requests on their way to the functions that answer them."""

from __future__ import annotations

import contextvars
import inspect
import logging
import threading
import time
import traceback
import types
import weakref
from typing import TYPE_CHECKING, Any, Callable, Coroutine, Dict, Optional

from . import _deadlines, _hub, _native
from ._parts import send_async_parts, send_parts
from ._threads import run_loop
from .core import Message, failure_text
from .exceptions import HandlerError, IPCError

if TYPE_CHECKING:
    import asyncio

    from ._notices import Notices, Watch

logger = logging.getLogger("ipc_framework.client")

#: The error of a request whose coroutine was cancelled, because the time for closing the client was over.
CANCELLED = "the worker ended before its handler was done; ask again if that does no harm"
#: Seconds that cancelled coroutines have for their `finally`.
CANCEL_SECONDS_MAX = 1.0
#: Requests that may wait for a handler by default; others are answered with `limit_exceeded`.
QUEUE_MAX = 4_096
#: The most requests for which a worker may ask the server at a time.
ANNOUNCED_MAX = 65_536
#: Seconds between two looks of a coroutine or a greenlet whether a full queue has room for its answer: the first ones,
#: and those to which they double.
ROOM_PAUSES = (0.002, 0.05)

#: The service whose handler runs in this context, or has started what runs in it.
_current: contextvars.ContextVar[Callable[[], Optional[Service]]] = contextvars.ContextVar(
    "ipc_framework.service", default=lambda: None
)

Handler = Callable[[Message], Any]


def is_coroutine_function(handler: Handler) -> bool:
    """Returns whether a call of it needs an event loop, as for an object with an `async def __call__`."""
    return _is_async(handler) or _is_async(getattr(handler, "__call__", None))


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


async def _answered(result: Any, job: _native.Job) -> Any:
    """Returns what the result of a plain function, such as a lambda, gives in an event loop."""
    import asyncio

    from ._notices import Notices

    notices = Notices(asyncio.get_running_loop())
    task = asyncio.current_task()
    assert task is not None
    watch = notices.watch(job, task)
    try:
        if type(result) is types.AsyncGeneratorType:
            return await send_async_parts(result, job, watch.part_sent)
        return await result
    finally:
        notices.close()


class Service:
    """A served channel. Requests wait in `jobs` until the handler is free for them."""

    def __init__(self, channel_id: str, handler: Handler, concurrency: int, queue_max: int, rings: bool) -> None:
        if concurrency < 1 or queue_max < 1:
            raise ValueError("concurrency and queue_max are numbers from 1 on")
        self.channel_id = channel_id
        self.handler = handler
        self.concurrency = concurrency
        #: The number of unanswered requests that the server hands out at a time; None for all at once.
        self.announced: Optional[int] = None
        self.jobs = _native.Jobs(queue_max, rings)
        #: Each request is handled in a copy of the context of whoever serves the channel.
        self._context = contextvars.copy_context()
        self._context.run(_current.set, weakref.ref(self))
        self._context.run(_deadlines.begin, None)

    def start(self) -> None:
        """Begins to take requests."""
        raise NotImplementedError

    def is_busy(self) -> bool:
        """Returns whether a handler may be running."""
        return True

    def finish(self) -> None:
        """Accepts no more requests. Those that have arrived are still answered."""
        self.jobs.close()

    def cancel(self) -> None:
        """Ends coroutines that run. Plain functions cannot be ended."""

    def wait(self, timeout: float) -> None:
        """Waits for what `cancel` has begun."""

    def _context_for(self, job: _native.Job) -> contextvars.Context:
        context = self._context.copy()
        remaining = job.remaining
        if remaining is not None:
            context.run(_deadlines.begin, remaining)
        return context

    def _failed(self, job: _native.Job, error: BaseException) -> None:
        if isinstance(error, HandlerError):
            self._answer_error(job, error)
            return
        if job.is_cancelled and type(error).__name__ == "CancelledError":
            # That of a coroutine, in a loop of its own or of the program.
            return
        # Nothing here may end the thread, which the next request needs.
        try:
            logger.error("the handler that serves %r failed", self.channel_id, exc_info=error)
        except Exception:
            traceback.print_exc()
        try:
            job.fail(failure_text(error))
        except IPCError:
            # The text is too large for a frame, and the requester was told that.
            pass

    def _answer_error(self, job: _native.Job, error: HandlerError) -> None:
        """Answers with an error of the application, which is none of the handler."""
        try:
            job.refuse(error.code, error.text, error.details)
        except IPCError:
            # The queue is full, and the requester was told that.
            pass


class Threads(Service):
    """Serves by a plain function, which daemon threads call: nothing can end one that does not return, and it must not
    hold the process."""

    def __init__(
        self,
        channel_id: str,
        handler: Handler,
        concurrency: int,
        queue_max: int,
        serving: threading.local,
        loop: Optional[asyncio.AbstractEventLoop] = None,
    ) -> None:
        self._is_cooperative = _hub.is_cooperative()
        super().__init__(channel_id, handler, concurrency, queue_max, rings=self._is_cooperative)
        self._serving = serving
        self._loop = loop
        self._lock = threading.Lock()
        self._threads = 0
        self._room = threading.Semaphore(concurrency)

    def start(self) -> None:
        if self.jobs.fileno() < 0:
            self._start_thread()
        else:
            start = _hub.ends_as_thread(self._start_greenlets)
            threading.Thread(target=start, name=f"ipc-serve-{self.channel_id}", daemon=True).start()

    def _start_thread(self) -> None:
        with self._lock:
            if self._threads == self.concurrency:
                return
            self._threads += 1
        try:
            threading.Thread(target=self._take, name=f"ipc-serve-{self.channel_id}", daemon=True).start()
        except RuntimeError:
            # The system, or an interpreter that is about to end, starts no more: those that run take what comes.
            with self._lock:
                self._threads -= 1
                if not self._threads:
                    raise

    def _take(self) -> None:
        self._serving.serves = True
        while True:
            taken = self.jobs.take()
            if taken is None:
                return
            message, job, is_last = taken
            if is_last and self._threads < self.concurrency:
                # No thread is left for the next request.
                self._start_thread()
            self._answer(message, job)
            # Released now, not only when the next request comes.
            del message, job, taken

    def _start_greenlets(self) -> None:
        while True:
            self._room.acquire()
            taken = self.jobs.take_now(1)
            while not taken:
                if taken is None:
                    return
                _hub.wait_readable(self.jobs.fileno())
                taken = self.jobs.take_now(1)
            answer = _hub.ends_as_thread(self._answer_and_leave)
            threading.Thread(target=answer, args=taken[0], daemon=True).start()

    def _answer_and_leave(self, message: Message, job: _native.Job) -> None:
        self._serving.serves = True
        try:
            self._answer(message, job)
        finally:
            self._room.release()

    def _answer(self, message: Message, job: _native.Job) -> None:
        try:
            context = self._context_for(job)
            result = context.run(self.handler, message)
            # A plain function, such as a lambda, may return any of these.
            if type(result) is types.GeneratorType:
                context.run(send_parts, result, job)
            elif type(result) is types.AsyncGeneratorType:
                context.run(self._await, _answered(result, job))
            else:
                if inspect.isawaitable(result):
                    result = context.run(self._await, _answered(result, job))
                self._wait_for_room(job)
                job.answer(result)
        except BaseException as error:
            self._wait_for_room(job)
            self._failed(job, error)

    def _wait_for_room(self, job: _native.Job) -> None:
        """Lets other greenlets go on while the queue is full. The native client would block all of them."""
        if self._is_cooperative:
            pause, longest = ROOM_PAUSES
            while not job.has_room:
                time.sleep(pause)
                pause = min(2 * pause, longest)

    def _await(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        import asyncio

        if self._loop is not None:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
        # A real thread, where it makes the call, has a context of its own.
        return _hub.call(contextvars.copy_context().run, asyncio.run, coroutine)


class Tasks(Service):
    """Serves by a coroutine function, as tasks of an event loop."""

    def __init__(
        self,
        channel_id: str,
        handler: Handler,
        concurrency: int,
        queue_max: int,
        loop: Optional[asyncio.AbstractEventLoop] = None,
    ) -> None:
        super().__init__(channel_id, handler, concurrency, queue_max, rings=True)
        self.loop = loop
        self.tasks: Dict[asyncio.Task[None], Watch] = {}
        self._notices: Optional[Notices] = None
        self._ended: Callable[[], object] = lambda: None

    def start(self) -> None:
        from ._notices import Notices

        assert self.loop is not None
        self._notices = Notices(self.loop)
        self.loop.add_reader(self.jobs.fileno(), self._take)

    def _take(self) -> None:
        assert self.loop is not None and self._notices is not None
        taken = self.jobs.take_now(self.concurrency - len(self.tasks))
        if taken is None:
            self.loop.remove_reader(self.jobs.fileno())
            if not self.tasks:
                self._notices.close()
                self._ended()
            return
        for message, job in taken:
            # The task's context is the copy, and not that of whoever has connected.
            task = self._context_for(job).run(self.loop.create_task, self._answer(message, job))
            self.tasks[task] = self._notices.watch(job, task)
            task.add_done_callback(self._done)
        if len(taken) > 1:
            # After the tasks have begun.
            self.loop.call_soon(self.jobs.send_held)

    def _done(self, task: asyncio.Task[None]) -> None:
        watch = self.tasks.pop(task, None)
        if watch is not None:
            assert self._notices is not None
            self._notices.forget(watch)
            self._take()

    async def _answer(self, message: Message, job: _native.Job) -> None:
        import asyncio

        try:
            result = self.handler(message)
            if type(result) is types.AsyncGeneratorType:
                task = asyncio.current_task()
                assert task is not None
                await send_async_parts(result, job, self.tasks[task].part_sent)
            else:
                result = await result
                if not job.has_room:
                    await self._room(job)
                job.answer(result)
        except asyncio.CancelledError as error:
            # Python 3.11 and newer can tell this task from one that the handler awaited.
            if getattr(asyncio.current_task(), "cancelling", lambda: True)():
                job.fail(CANCELLED)
            else:
                self._failed(job, error)
            raise
        except BaseException as error:
            if isinstance(error, Exception):
                await self._room(job)
            self._failed(job, error)
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                # Ctrl-C is meant for the program, whose loop this is.
                raise
        else:
            # At once, so that the next request is begun in the loop's next turn.
            task = asyncio.current_task()
            if task is not None:
                self._done(task)

    async def _room(self, job: _native.Job) -> None:
        """Lets other coroutines go on while the queue is full. The native client would block all of them."""
        from asyncio import sleep

        pause, longest = ROOM_PAUSES
        while not job.has_room:
            await sleep(pause)
            pause = min(2 * pause, longest)

    def is_busy(self) -> bool:
        return bool(self.tasks)

    def cancel(self) -> None:
        import asyncio

        # A coroutine that closes its client goes on.
        current = asyncio.current_task(self.loop)
        for task in list(self.tasks):
            if task is not current:
                task.cancel()


class LoopThread(Tasks):
    """Serves by a coroutine function, on an event loop and a thread of its own."""

    def __init__(
        self, channel_id: str, handler: Handler, concurrency: int, queue_max: int, serving: threading.local
    ) -> None:
        super().__init__(channel_id, handler, concurrency, queue_max)
        self._serving = serving
        self._has_ended = threading.Event()

    def start(self) -> None:
        name = f"ipc-serve-{self.channel_id}"
        threading.Thread(target=_hub.ends_as_thread(self._run), name=name, daemon=True).start()

    def _run(self) -> None:
        try:
            _hub.call(self._run_loop)
        finally:
            self._has_ended.set()

    def _run_loop(self) -> None:
        import asyncio

        self._serving.serves = True
        # Made on the thread that runs it: the selectors of gevent belong to a thread.
        self.loop = loop = asyncio.new_event_loop()
        ended = loop.create_future()
        self._ended = lambda: None if ended.done() else ended.set_result(None)
        super().start()
        run_loop(loop, lambda: loop.run_until_complete(ended))

    def cancel(self) -> None:
        if self.loop is None:
            return
        try:
            self.loop.call_soon_threadsafe(super().cancel)
        except RuntimeError:
            # The loop is closed, because nothing was left to do.
            pass

    def wait(self, timeout: float) -> None:
        self._has_ended.wait(timeout)


class Services:
    """The channels that a client serves."""

    def __init__(self) -> None:
        self._services: Dict[str, Service] = {}
        #: With those that finish what they have.
        self._all: weakref.WeakSet[Service] = weakref.WeakSet()
        self._serving = threading.local()

    def is_current(self) -> bool:
        """Returns whether this thread is answering a request."""
        return getattr(self._serving, "serves", False)

    def is_awaited(self) -> bool:
        """Returns whether a handler may wait for what runs in this context: it is the handler itself, or was started
        by it while it runs."""
        service = _current.get()()
        return service is not None and service in self._all and service.is_busy()

    def make(
        self,
        channel_id: str,
        handler: Handler,
        concurrency: int,
        prefetch: Optional[int],
        queue_max: int,
        loop: Optional[asyncio.AbstractEventLoop] = None,
    ) -> Service:
        """Makes a service for a handler. Coroutines run in `loop` if there is one."""
        if prefetch is not None and (not isinstance(prefetch, int) or isinstance(prefetch, bool) or prefetch < 0):
            raise ValueError("prefetch is a number from 0 on, or None for all requests at once")
        service: Service
        if not is_coroutine_function(handler):
            service = Threads(channel_id, handler, concurrency, queue_max, self._serving, loop)
        elif loop is not None:
            service = Tasks(channel_id, handler, concurrency, queue_max, loop)
        else:
            service = LoopThread(channel_id, handler, concurrency, queue_max, self._serving)
        if prefetch is not None:
            service.announced = min(concurrency + prefetch, ANNOUNCED_MAX)
        self._all.add(service)
        return service

    def add(self, service: Service) -> None:
        """Adds a service that the server has accepted. An older one for the channel finishes."""
        older = self._services.get(service.channel_id)
        self._services[service.channel_id] = service
        if older is not None:
            older.finish()

    def remove(self, channel_id: str) -> None:
        service = self._services.pop(channel_id, None)
        if service is not None:
            service.finish()

    def close(self) -> None:
        """Accepts no more requests on any channel."""
        self._services.clear()
        for service in list(self._all):
            service.finish()

    async def cancel_tasks(self) -> None:
        """As `cancel`, for services whose coroutines run in the caller's loop."""
        import asyncio

        tasks = [task for service in list(self._all) if isinstance(service, Tasks) for task in service.tasks]
        others = [task for task in tasks if task is not asyncio.current_task()]
        for service in list(self._all):
            service.cancel()
        if others:
            await asyncio.wait(others, timeout=CANCEL_SECONDS_MAX)

    def cancel(self) -> None:
        """Ends the coroutines that still run, and gives them time for their `finally`."""
        services = list(self._all)
        deadline = time.monotonic() + CANCEL_SECONDS_MAX
        for service in services:
            service.cancel()
        for service in services:
            service.wait(max(deadline - time.monotonic(), 0.0))
