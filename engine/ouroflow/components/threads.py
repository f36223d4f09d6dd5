"""Threads for kernels outside the interpreter lock: each call writes its own arrays, so nothing depends on timing."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

MOST_THREADS = 16
"""Past this many, memory bandwidth and not the processors is the limit of these kernels."""


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    """Run the calls at the same time, the first of them in this thread; return their results in order."""
    first, *others = calls
    if not others:
        return [first()]
    with ThreadPoolExecutor(len(others)) as pool:
        futures = [pool.submit(call) for call in others]
        return [first(), *(future.result() for future in futures)]


def parts(length: int) -> list[slice]:
    """Cut a range into equal parts, one per processor that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = min(MOST_THREADS, usable)
    return [slice(length * t // threads, length * (t + 1) // threads) for t in range(threads)]
