# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Worker processes that may crash or hang, as decoders of damaged files do, without stopping the work of the others."""

import multiprocessing
import signal
import time
from collections.abc import Callable, Generator, Iterable
from multiprocessing.connection import Connection, wait
from typing import Any


class WorkerFailure(RuntimeError):
    """A worker process "crashed (…)" or "took longer than … s", which is the message: the end of a sentence."""


class _Worker:
    """A process that calls `function` on the items it is sent, one at a time."""

    def __init__(self, context, function: Callable):
        self.connection, connection_of_worker = context.Pipe()
        self.process = context.Process(target=_serve, args=(function, connection_of_worker), daemon=True)
        self.process.start()
        connection_of_worker.close()  # the worker has the only other one: when it dies, ours reports the end of file

    def send(self, item, timeout: float | None):
        self.item, self.deadline = item, time.monotonic() + (float("inf") if timeout is None else timeout)
        try:
            self.connection.send(item)
        except BrokenPipeError:
            pass  # it has died already, which `receive` will report

    def receive(self) -> Any:
        try:
            return self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            code = self.process.exitcode
            return WorkerFailure(f"crashed ({signal.strsignal(-code) if code < 0 else f'exit code {code}'})")

    def stop(self):
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(function: Callable, connection: Connection):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main one stops the others
    while True:
        try:
            item = connection.recv()
            try:
                result = function(item)
            except Exception as error:
                result = error
            connection.send(result)
        except (EOFError, BrokenPipeError):  # the main process is gone
            return


def map_in_workers(
    function: Callable, items: Iterable, num_workers: int, timeout: float | None = None
) -> Generator[tuple[Any, Any], None, None]:
    """Call a function on items in several processes.

    Unlike the pools of the standard library this one survives its workers: one that crashes, or is killed for taking
    too long, costs the result of its own item only, and another takes its place.

    Args:
        function: importable by name (or a `partial` of such), as everything that is sent between processes.
        items: are taken one by one, when a worker is free.
        num_workers: processes, which end with the iterator.
        timeout: seconds that one item may take; without end by default.

    Yields:
        an item and its result, as they are ready; in place of a result the `Exception` that the function raised, or a
        `WorkerFailure`.
    """
    # Forked from a server without threads, workers start fast and safely; Windows has no such server.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload(["__main__", getattr(function, "func", function).__module__])
    items, busy = iter(items), {}

    def start_next(worker: _Worker | None = None):
        for item in items:
            worker = worker or _Worker(context, function)
            busy[worker.connection] = worker
            worker.send(item, timeout)
            return
        if worker is not None:
            worker.stop()

    try:
        for _ in range(num_workers):
            start_next()
        while busy:
            first_deadline = min(worker.deadline for worker in busy.values())
            patience = None if first_deadline == float("inf") else max(0.0, first_deadline - time.monotonic())
            ready, now = wait(list(busy), patience), time.monotonic()
            for connection, worker in list(busy.items()):
                if connection in ready:
                    result = worker.receive()
                elif worker.deadline <= now:
                    result = WorkerFailure(f"took longer than {timeout:g} s")
                else:
                    continue
                item = busy.pop(connection).item
                if isinstance(result, WorkerFailure):
                    worker.stop()
                    worker = None
                start_next(worker)
                yield item, result
    finally:
        for worker in busy.values():
            worker.stop()
