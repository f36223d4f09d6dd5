"""Threads for kernels that run outside the interpreter lock: each call writes its own part, so nothing depends on timing."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")

MOST_THREADS = 16
"""Past this many, memory bandwidth and not the processors is the limit of kernels that sweep arrays."""


def threads_available() -> int:
    """Return how many threads this process may run at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    """Run the calls at the same time, the first of them in this thread; return their results in order."""
    first, *others = calls
    if not others:
        return [first()]
    with ThreadPoolExecutor(len(others)) as pool:
        futures = [pool.submit(call) for call in others]
        return [first(), *(future.result() for future in futures)]


def slices(length: int) -> list[slice]:
    """Cut a range into equal parts, one per processor that this process may use."""
    threads = min(MOST_THREADS, threads_available())
    return [slice(length * part // threads, length * (part + 1) // threads) for part in range(threads)]


def do_tasks(work: Callable[[Any], Result], tasks: Iterable[Any], threads: int) -> list[Result]:
    """Do all tasks, each thread taking the next one when it is free; return the results in the order of the tasks."""
    tasks = list(tasks)
    if threads == 1 or len(tasks) <= 1:
        return [work(task) for task in tasks]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, tasks))


def between(work: Callable[[int, int], Result], bounds: Iterable[Any], threads: int | None = None) -> list[Result]:
    """Run ``work(first, last)`` between neighbouring bounds (whole numbers); return the results in order."""
    return do_tasks(lambda edge: work(*edge), itertools.pairwise(map(int, bounds)), threads or threads_available())


def in_parts(work: Callable[[int, int], Result], size: int, threads: int | None = None) -> list[Result]:
    """Run ``work(first, last)`` over equal parts of range(size), some more parts than threads; return the results in order."""
    workers = threads or threads_available()
    parts = min(size, 1 if workers == 1 else 4 * workers)
    return between(work, [size * part // parts for part in range(parts + 1)], workers) if parts else []
