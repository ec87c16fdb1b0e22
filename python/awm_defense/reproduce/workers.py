"""Where cells run: in this process, in several, or on a Ray cluster."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from awm_defense.reproduce.cells import Cell, Place, run_cell


@dataclass(frozen=True)
class Outcome:
    """What a cell found, or the error that it ended with."""

    cell: Cell
    found: dict[str, Any] | None
    error: str = ""


def in_this_process(cells: list[Cell], place: Place) -> Iterator[Outcome]:
    """One after the other."""
    for cell in cells:
        yield _attempt(cell, place)


def in_processes(cells: list[Cell], place: Place, workers: int) -> Iterator[Outcome]:
    """`workers` at a time, each in a process with its share of the cores; in order of ending.

    More workers than cores are not started: each takes the memory of a whole Python.
    """
    cores = os.cpu_count() or 1
    workers = min(workers, cores)
    threads = cores // workers
    context = multiprocessing.get_context("spawn")
    ends_with, held = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        workers,
        mp_context=context,
        initializer=_start_worker,
        initargs=(threads, ends_with),
    )
    try:
        with _interrupts_held():  # this is when processes are started
            futures = {pool.submit(_attempt, cell, place): cell for cell in cells}
        for future in as_completed(futures):
            yield _outcome(futures[future], future.result)
    except BaseException:
        held.close()  # cells in work are not waited for
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        held.close()
        ends_with.close()


def on_ray(cells: list[Cell], place: Place, address: str, workers: int) -> Iterator[Outcome]:
    """On a Ray cluster, whose machines find networks and data under the same paths.

    A cell takes a GPU where `place.device` is one, and else 1/`workers` of the cores of the
    cluster's largest machine; in order of ending.

    Raises:
        ImportError: when Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("--ray: Ray is missing: pip install 'awm-kernels[ray]'") from error
    ray.init(address=address)
    try:
        cores = max(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"])
        gpus = int(place.device.startswith("cuda"))
        share = 1 if gpus else max(1, int(cores // workers))
        attempt = ray.remote(num_cpus=share, num_gpus=gpus)(_attempt)
        running = {attempt.remote(cell, place): cell for cell in cells}
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            yield _outcome(running.pop(done), partial(ray.get, done))
    finally:
        ray.shutdown()


def _attempt(cell: Cell, place: Place) -> Outcome:
    try:
        return Outcome(cell, run_cell(cell, place))
    except Exception as error:  # whatever it is, the other cells go on
        return Outcome(cell, None, _describe(error))


def _outcome(cell: Cell, get: Callable[[], Outcome]) -> Outcome:
    """What came back, or why nothing did: the worker may have died."""
    try:
        return get()
    except Exception as error:
        return Outcome(cell, None, _describe(error))


def _describe(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Meanwhile Ctrl-C waits here, and in processes that are started, until `_start_worker`.

    Python's own handler would print tracebacks there while modules are imported.
    """
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(threads: int, ends_with: Connection) -> None:
    torch.set_num_threads(threads)
    # Ctrl-C reaches every process of a terminal: a worker just ends, its cell is run another time.
    # Where the run ignores it, so does the worker.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    threading.Thread(target=_end_with, args=(ends_with,), daemon=True).start()


def _end_with(held: Connection) -> None:
    """End when the run closes its end of a pipe, or is killed: the system closes it then.

    The worker of a killed run would otherwise finish its cell, beside those of the next run.
    """
    wait([held])
    os._exit(1)
