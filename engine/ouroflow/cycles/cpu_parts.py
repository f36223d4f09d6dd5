"""What every search shares: a stop sign, first payers cut into parts for threads, and the most valuable answers.

The answer does not depend on the number of threads: first payers are cut into the same parts whatever there is to search
them, and the parts are joined in order. Only a search that a time budget ends early depends on the machine.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ouroflow.cycles.cpu_search import DONE, FULL
from ouroflow.runtime.threads import do_tasks, threads_available

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Ids = npt.NDArray[Any]

PARTS = 128
"""Parts that first payers are cut into: enough that threads end together, few enough that starting them is nothing."""
FIRST_SHARE = 1024
"""Most valuable payments that the search for the most valuable round trips begins with."""


@dataclass(frozen=True, eq=False)
class Listing:
    """Round trips as they were found: by first payer, then by their payments in order.

    Attributes
    ----------
    offsets : int64[round trips + 1]
    steps : int64[payments of all]
        Positions of the payments among those that were searched, see `list_all` of each search.
    value : int64[round trips]
        The smallest payment of each.
    bundle : int64[round trips] or None
        Round trips that each stands for; None: one.
    complete : bool
        Whether these are all.
    """

    offsets: Int64s
    steps: Int64s
    value: Int64s
    bundle: Int64s | None
    complete: bool

    @property
    def count(self) -> int:
        """Number of round trips, all members of bundles included."""
        return self.value.size if self.bundle is None else sum(map(int, self.bundle))


class StopSign:
    """A flag that kernels look at, raised when the time is up or the search is left for any other reason."""

    def __init__(self, seconds: float | None) -> None:
        self.raised = np.zeros(1, np.uint8)
        self.timer = None if seconds is None else threading.Timer(min(seconds, threading.TIMEOUT_MAX), self.stop)

    def stop(self) -> None:
        """Raise the flag."""
        self.raised[0] = 1

    def __enter__(self) -> StopSign:
        """Start the clock."""
        if self.timer is not None:
            self.timer.daemon = True
            self.timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the clock, and what still searches."""
        if self.timer is not None:
            self.timer.cancel()
        self.stop()


def search_in_parts(
    search: Callable[[Any, Int32s, int], tuple[Any, ...]],
    new_scratch: Callable[[], Any],
    roots: Int32s,
    weight: Int64s,
    limit: int,
    stop: StopSign,
    threads: int | None,
) -> tuple[list[tuple[Any, ...]], bool]:
    """Search parts of the roots, of about equal weight, in threads.

    Parameters
    ----------
    search : callable
        Given the scratch of a thread, the roots of a part and a limit, returns arrays, the last of them with one entry per
        round trip, and then how the search ended.
    new_scratch : callable
        Makes the scratch of one thread.
    weight : int64[roots]
        Cost of each root.

    Returns
    -------
    found : list of tuple
        What each part returned, in order; parts behind those that hold more than `limit` together are left out.
    complete : bool
        Whether all parts were searched whole.
    """
    sums = np.cumsum(weight)
    cuts = np.searchsorted(sums, sums[-1] * np.arange(1, PARTS) // PARTS) if roots.size else []
    tasks = [part for part in np.split(roots, cuts) if part.size]
    threads = min(threads or threads_available(), max(len(tasks), 1))
    scratches: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for _ in range(threads):
        scratches.put(new_scratch())
    counts = np.zeros(len(tasks), np.int64)

    def search_part(at: int) -> tuple[Any, ...] | None:
        # Parts before this one that still run count nothing yet: what is left is never too small, so the first `limit`
        # round trips are the same whatever runs beside them.
        left = limit - int(counts[:at].sum())
        if stop.raised[0] or left < 0:
            return None
        scratch = scratches.get()
        try:
            found = search(scratch, tasks[at], left)
        finally:
            scratches.put(scratch)
        counts[at] = found[-2].size + (found[-1] == FULL)
        return found

    found = do_tasks(search_part, range(len(tasks)), threads)
    whole = [part for part in found if part is not None]
    return whole, len(whole) == len(tasks) and all(part[-1] == DONE for part in whole)


def joined(
    found: list[tuple[Any, ...]], complete: bool, limit: int, amount: Int64s, place: Ids, bundled: bool
) -> Listing:
    """Join what the parts found into one listing of at most `limit` round trips.

    Parameters
    ----------
    found : list of tuple
        Of each part the steps, the lengths, with bundles the number of round trips of each, and the ending.
    amount, place : int64[payments]
        Minor units of each step, and what to report it as.
    """
    none = np.empty(0, np.int32)
    steps = np.concatenate([none, *(part[0] for part in found)])
    lengths = np.concatenate([none, *(part[1] for part in found)])
    bundle = np.concatenate([np.empty(0, np.int64), *(part[2] for part in found)])[:limit] if bundled else None
    if lengths.size > limit:
        lengths, complete = lengths[:limit], False
    offsets = np.zeros(lengths.size + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    steps = steps[: offsets[-1]]
    value = np.minimum.reduceat(amount[steps], offsets[:-1]) if steps.size else np.empty(0, np.int64)
    return Listing(offsets, place[steps].astype(np.int64, copy=False), value, bundle, complete)


def chosen_steps(listing: Listing, top: int | None) -> tuple[Int64s, Int64s, Int64s]:
    """Return (round trips, offsets, steps) of the most valuable round trips, those of equal value as they were found."""
    order = np.argsort(-listing.value, kind="stable")[:top]
    lengths = np.diff(listing.offsets)[order]
    offsets = np.zeros(order.size + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    return order, offsets, listing.steps[np.repeat(listing.offsets[:-1][order], lengths) + within]


def bounded(
    find: Callable[[int, StopSign], Listing], amount: Int64s, top: int | None, seconds: float | None
) -> tuple[Listing, Listing, int | None]:
    """List round trips within a time budget; where they are too many, look for the most valuable ones.

    Parameters
    ----------
    find : callable
        Lists the round trips among the payments of at least an amount.

    Returns
    -------
    listing : Listing
        All that were found.
    reported : Listing
        Those to report from.
    complete_from : int or None
        Every round trip of at least this value is reported.
    """
    half = seconds if seconds is None or top is None else seconds / 2
    with StopSign(half) as stop:
        listing = find(0, stop)
    if listing.complete or top is None:
        return listing, listing, 0 if listing.complete else None
    with StopSign(half) as stop:
        best = most_valuable(lambda least: find(least, stop), amount, top)
    return (listing, listing, None) if best is None else (listing, *best)


def most_valuable(find: Callable[[int], Listing], amount: Int64s, top: int) -> tuple[Listing, int] | None:
    """Find the `top` round trips of most value where there are too many to list all.

    The value of a round trip is its smallest payment, so those of at least some value are made of payments of at least
    that amount. The share of the largest payments is widened until it holds enough round trips, or more than can be
    listed.

    Returns
    -------
    listing : Listing
        Complete for its amount.
    amount : int
        All round trips of at least this value are listed. None instead of both where not even that was possible.
    """
    descending = np.sort(amount)[::-1]
    best, enough, too_many, size = None, 0, amount.size, min(FIRST_SHARE, amount.size - 1)
    while enough < size < too_many:
        threshold = int(descending[size - 1])
        listing = find(threshold)
        if listing.complete:
            best, enough = (listing, threshold), int(np.searchsorted(-descending, -threshold, side="right"))
            if listing.value.size >= top:
                break
        else:
            too_many = size
        size = min(4 * enough, too_many - 1) if 4 * enough < too_many and enough else (enough + too_many) // 2
        if size - enough <= enough // 16:
            break
    return best
