"""Round trips in time: ours beside the project's prototype, in turns in one run; threads, 10 million payments, hubs.

Run as ``python bench/bench_cycles.py [month] [threads] [large] [hub]``; all parts without arguments. The prototype
stands in the project's shared folder; without it its columns are left out. `search` is the time to list all round trips
from the index on, payment ids included, in one thread; `index` the time to lay out payments that are in order of
time, in the threads that the index takes; `door` all of `time_ordered_cycles`, components included.
"""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from graphs import payments
from harness import interleaved, prototype, write_result
from ouroflow.cycles import time_ordered_cycles
from ouroflow.cycles.cpu_index import PaymentIndex, index_payments
from ouroflow.cycles.cpu_parts import StopSign, search_in_parts
from ouroflow.cycles.cpu_search import Rule, new_scratch, search
from ouroflow.runtime.threads import threads_available

HOUR = 3600
REPEATS = 7
ACCOUNTS = 100_000
LIMIT = 10**7
MOST_OF_PROTOTYPE = 1.0
LEAST_OF_TWO_THREADS = 1.6
MOST_SECONDS = {"large": 2.5, "hub": 0.5}
"""What this room has promised."""
RULES = {
    "plain": (Rule(None, 1, 0, 1), {}),
    "6 hops": (Rule(6, 1, 0, 1), {"K": 6}),
    "keep 0.8": (Rule(None, 1, 4, 5), {"amt": True}),
}

Month = tuple[Any, Any, Any, Any]


def month(**size: int) -> Month:
    payer, payee, second, amount, _ = payments(**size)
    other = payer != payee
    cents = np.rint(amount[other] * 100).astype(np.int64)
    return payer[other].astype(np.int32), payee[other].astype(np.int32), second[other], cents


def lay_out(columns: Month, accounts: int, hours: int) -> PaymentIndex:
    return index_payments(*columns, accounts, hours * HOUR, "strict")


def count_in_parts(index: PaymentIndex, rule: Rule, threads: int) -> int:
    accounts, count = index.out_offsets.size - 1, index.order.size
    roots, stop = np.arange(accounts, dtype=np.int32), StopSign(None)
    found, complete = search_in_parts(
        lambda scratch, part, left: search(index, scratch, rule, part, left, stop.raised, False),
        lambda: new_scratch(accounts, count, rule.share > 0),
        roots,
        np.diff(index.out_offsets) + 1,
        LIMIT,
        stop,
        threads,
    )
    assert complete
    return sum(part[1].size for part in found)


def bench_month() -> list[dict[str, Any]]:
    columns, sketch = month(), prototype("cycles")
    return [measure(columns, sketch, hours, name) for hours in (72, 168, 720) for name in RULES]


def measure(columns: Month, sketch: Any, hours: int, name: str) -> dict[str, Any]:
    payer, payee, second, cents = columns
    rule, of_sketch = RULES[name]
    index, counts = lay_out(columns, ACCOUNTS, hours), {}
    scratch, roots, stop = new_scratch(ACCOUNTS, payer.size, rule.share > 0), np.arange(ACCOUNTS), np.zeros(1, np.uint8)
    roots = roots.astype(np.int32)

    def ours() -> None:
        steps, lengths, _ = search(index, scratch, rule, roots, LIMIT, stop, False)
        counts["ours"] = lengths.size
        index.order[steps]  # the payments themselves

    jobs: dict[str, Callable[[], object]] = {
        "search": ours,
        "index": lambda: lay_out(columns, ACCOUNTS, hours),
        "door": lambda: time_ordered_cycles(
            *columns, window=hours * HOUR, hops=rule.hops, keep="0.8" if rule.share else None
        ),
    }
    if sketch is not None:
        ends = (payer, payee, second.astype(np.int32), ACCOUNTS)
        laid = sketch.prep(*ends, amt=cents.astype(np.float64))
        room = [sketch.scratch(laid, maxc=10**6, amt=True)]

        def theirs() -> None:
            counts["prototype"] = sketch.run(laid, hours * HOUR, sc=room, **of_sketch)[0]

        jobs["prototype_search"] = theirs
        jobs["prototype_index"] = lambda: sketch.prep(*ends, amt=cents.astype(np.float64))
    taken = interleaved(jobs, 3 if hours == 720 else REPEATS)
    assert len(set(counts.values())) == 1, counts
    ratios = {job: taken[job] / taken[f"prototype_{job}"] for job in ("search", "index") if f"prototype_{job}" in taken}
    print(
        f"{hours:4} h {name:9} {counts['ours']:>7,} round trips  "
        + "  ".join(f"{job} {value:.4f}s" for job, value in taken.items())
        + "  "
        + "  ".join(f"{job} to prototype {value:.2f}" for job, value in ratios.items())
        + f"  (promised {MOST_OF_PROTOTYPE})",
        flush=True,
    )
    return {"hours": hours, "rule": name, "count": counts["ours"], "seconds": taken, "to_prototype": ratios}


def bench_threads() -> list[dict[str, Any]]:
    columns, rows = month(), []
    for hours in (72, 168, 720):
        index = lay_out(columns, ACCOUNTS, hours)
        jobs: dict[str, Callable[[], object]] = {
            "one": lambda index=index: count_in_parts(index, RULES["plain"][0], 1),
            "two": lambda index=index: count_in_parts(index, RULES["plain"][0], 2),
        }
        taken = interleaved(jobs, 3 if hours == 720 else REPEATS)
        gain = taken["one"] / taken["two"]
        print(
            f"{hours:4} h one thread {taken['one']:.4f}s two {taken['two']:.4f}s: {gain:.2f}x (promised {LEAST_OF_TWO_THREADS})"
        )
        rows.append({"hours": hours, "seconds": taken, "gain": gain})
    return rows


def bench_large() -> dict[str, Any]:
    columns = month(accounts=1_000_000, payments=10_000_000, rings=10_000)
    start = time.perf_counter()
    index = lay_out(columns, 1_000_000, 72)
    indexed = time.perf_counter() - start
    times = []
    for _ in range(3):
        start = time.perf_counter()
        count = count_in_parts(index, RULES["plain"][0], threads_available())
        times.append(time.perf_counter() - start)
    searched = sorted(times)[1]
    sketch = prototype("cycles")
    if sketch is not None:
        laid = sketch.prep(*columns[:2], columns[2].astype(np.int32), 1_000_000)
        assert sketch.run(laid, 72 * HOUR, threads=2)[0] == count
    print(
        f"10M payments, 72 h: {count:,} round trips, index {indexed:.2f}s, "
        f"search {searched:.2f}s (promised {MOST_SECONDS['large']})"
    )
    return {"count": count, "index_seconds": indexed, "search_seconds": searched}


def hub_star(payments_of_hub: int = 100_000, counterparties: int = 5_000) -> Month:
    """One company that pays and is paid 50,000 times within 30 days, by 5,000 others that also pay each other."""
    rng = np.random.default_rng(7)
    half = payments_of_hub // 2
    others = rng.integers(1, counterparties + 1, (2, half))
    payer = np.concatenate([np.zeros(half, np.int64), others[0], others[1]])
    payee = np.concatenate(
        [rng.integers(1, counterparties + 1, half), np.zeros(half, np.int64), rng.permutation(others[1])]
    )
    second = np.sort(rng.integers(0, 720 * HOUR, payer.size))
    other = payer != payee
    return (
        payer[other].astype(np.int32),
        payee[other].astype(np.int32),
        second[other],
        np.ones(int(other.sum()), np.int64),
    )


def bench_hub() -> dict[str, Any]:
    star = hub_star()
    pair = np.arange(100_000) % 2
    parallel = (pair.astype(np.int32), (1 - pair).astype(np.int32), np.arange(100_000) * 26)
    jobs: dict[str, Callable[[], object]] = {
        "star_2_hops_listed": lambda: time_ordered_cycles(*star, window=72 * HOUR, hops=2),
        "parallel_in_bundles": lambda: time_ordered_cycles(*parallel, window=72 * HOUR, bundles=True),
        "parallel_to_the_limit": lambda: time_ordered_cycles(*parallel, window=72 * HOUR, limit=100_000),
    }
    taken = interleaved(jobs, 3)
    for job, value in taken.items():
        found: Any = jobs[job]()
        print(
            f"hub of 100,000 payments, {job}: {found.count:,} round trips, limit reached {found.limit_reached}, {value:.3f}s"
        )
    print(f"  (promised {MOST_SECONDS['hub']} for an exact count)")
    return {"seconds": taken}


def bench_memory() -> dict[str, float]:
    columns = month()
    per_payment = {}
    for name, settings in {"plain": {}, "keep": {"keep": "0.8"}}.items():
        time_ordered_cycles(*columns, window=72 * HOUR, **settings)
        tracemalloc.start()
        time_ordered_cycles(*columns, window=72 * HOUR, **settings)
        per_payment[name] = tracemalloc.get_traced_memory()[1] / columns[0].size
        tracemalloc.stop()
    print("memory at the peak, bytes a payment (numba's own arrays, 40, not counted):", per_payment)
    return per_payment


PARTS: dict[str, Callable[[], Any]] = {
    "month": bench_month,
    "threads": bench_threads,
    "large": bench_large,
    "hub": bench_hub,
    "memory": bench_memory,
}


def main() -> None:
    parts = sys.argv[1:] or list(PARTS)
    write_result("cycles", {"repeats": REPEATS, "parts": {part: PARTS[part]() for part in parts}})


if __name__ == "__main__":
    main()
