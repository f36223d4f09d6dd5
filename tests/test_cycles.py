"""Round trips in time: exactly those of the definition, bounded when they explode, counted whole where they are parallel."""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ouroflow.cycles import Cycles, cpu, time_ordered_cycles
from ouroflow.cycles.cpu_search import INT64_MAX, Rule, amounts_kept
from ouroflow.errors import InputError, UsageError

Case = dict[str, Any]
HOUR = 3600


def bench_graphs() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "bench" / "graphs.py"
    spec = importlib.util.spec_from_file_location("bench_graphs", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GRAPHS = bench_graphs()


# --- the oracle: the definition in plain Python -----------------------------------------------------------------------


def by_definition(
    case: Case, window: int | None, hops: int | None, keep: Fraction | None, ties: str
) -> set[tuple[int, ...]]:
    """Try every sequence of payments; a round trip is the tuple of its rows."""
    payer, payee, time, amount = (case[name] for name in ("payer", "payee", "time", "amount"))

    def may_follow(before: int, after: int) -> bool:
        if payee[before] != payer[after]:
            return False
        if time[after] <= time[before] and not (
            time[after] == time[before] and (ties == "any" or (ties == "file" and after > before))
        ):
            return False
        if keep is None:
            return True
        return amount[before] * keep <= amount[after] and amount[after] * keep <= amount[before]

    def extend(path: list[int]) -> Iterator[tuple[int, ...]]:
        if hops is not None and len(path) == hops:
            return
        for row in range(len(payer)):
            if not may_follow(path[-1], row) or (window is not None and time[row] - time[path[0]] > window):
                continue
            if payee[row] == payer[path[0]]:
                trip = (*path, row)
                if time[row] > time[path[0]] or ties != "any" or min(trip) == trip[0]:
                    yield trip
            elif payee[row] not in {payer[step] for step in path} | {payer[row]}:
                yield from extend([*path, row])

    return {trip for first in range(len(payer)) if payer[first] != payee[first] for trip in extend([first])}


def cycles_by_definition(case: Case, hops: int | None, keep: Fraction | None) -> set[tuple[tuple[int, int], ...]]:
    """Try every sequence of companies that begins with the smallest; a cycle is the tuple of its (payer, payee)."""
    amount: Counter[tuple[int, int]] = Counter()
    for payer, payee, paid in zip(case["payer"], case["payee"], case["amount"], strict=True):
        if payer != payee:
            amount[int(payer), int(payee)] += int(paid)
    found = set()
    for size in range(2, min(hops or 99, case["companies"]) + 1):
        for rest in itertools.permutations(range(case["companies"]), size):
            flows = tuple(zip(rest, rest[1:] + rest[:1], strict=True))
            if rest[0] != min(rest) or any(flow not in amount for flow in flows):
                continue
            pairs = [(amount[one], amount[other]) for one, other in zip(flows, flows[1:] + flows[:1], strict=True)]
            if keep is None or all(one * keep <= other and other * keep <= one for one, other in pairs):
                found.add(flows)
    return found


def small_graph(seed: int) -> Case:
    """A few companies with payments among them: parallel ones, equal times and payments to oneself included."""
    rng = np.random.default_rng(seed)
    companies, payments = int(rng.integers(2, 7)), int(rng.integers(1, 15))
    times = int(rng.choice([3, 8, 40]))
    return {
        "companies": companies,
        "payer": rng.integers(0, companies, payments),
        "payee": rng.integers(0, companies, payments),
        "time": rng.integers(-5, times, payments),
        "amount": rng.choice([80, 99, 100, 101, 125, 126, 200], payments),
    }


def columns(case: Case) -> tuple[Any, ...]:
    return case["payer"], case["payee"], case["time"], case["amount"]


def trips(found: Cycles) -> list[tuple[int, ...]]:
    return [tuple(map(int, rows)) for rows in np.split(found.rows, found.offsets[1:-1])] if found.listed else []


def settings_of(seed: int) -> tuple[int | None, int | None, Fraction | None]:
    rng = np.random.default_rng(seed + 10**6)
    window = None if rng.random() < 0.2 else int(rng.integers(0, 30))
    hops = None if rng.random() < 0.4 else int(rng.integers(2, 6))
    keep = None if rng.random() < 0.5 else Fraction(4, 5)
    return window, hops, keep


# --- the definition ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", ["strict", "file", "any"])
def test_every_round_trip_of_the_definition_and_no_other_is_found(ties: str) -> None:
    for seed in range(1500):
        case, (window, hops, keep) = small_graph(seed), settings_of(seed)
        found = time_ordered_cycles(*columns(case), window=window, hops=hops, keep=keep, ties=ties)
        expected = by_definition(case, window, hops, keep, ties)
        assert len(trips(found)) == len(set(trips(found))), f"seed {seed}: counted twice"
        assert set(trips(found)) == expected, f"seed {seed}"
        assert (found.count, found.limit_reached, found.complete_from) == (len(expected), False, 0)


def test_the_parts_of_the_search_that_small_graphs_never_reach_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    # In pure Python, where the few payments after which time is cut, and the patience, can be set to nothing.
    from ouroflow.cycles import cpu_search

    names = [name for name, value in vars(cpu_search).items() if hasattr(value, "py_func")]
    for name in names:
        monkeypatch.setattr(cpu_search, name, getattr(cpu_search, name).py_func)
    monkeypatch.setattr(cpu, "search", cpu_search.search)
    monkeypatch.setattr(cpu_search, "FEW", 1)
    monkeypatch.setattr(cpu_search, "PATIENCE", 0)
    for seed in range(300):
        case, (window, hops, keep) = small_graph(seed), settings_of(seed)
        ties = ("strict", "file", "any")[seed % 3]
        found = time_ordered_cycles(*columns(case), window=window, hops=hops, keep=keep, ties=ties)
        assert sorted(trips(found)) == sorted(by_definition(case, window, hops, keep, ties)), f"seed {seed}"


def test_cycles_of_flows_are_those_of_the_definition() -> None:
    for seed in range(1000):
        case, (_, hops, keep) = small_graph(seed), settings_of(seed)
        found = time_ordered_cycles(
            case["payer"], case["payee"], None, case["amount"], window=None, hops=hops, keep=keep
        )
        flows = [tuple(zip(map(int, a), map(int, b), strict=True)) for a, b in zip(
            np.split(found.payer, found.offsets[1:-1]), np.split(found.payee, found.offsets[1:-1]), strict=True
        )] if found.listed else []  # fmt: skip
        assert len(flows) == len(set(flows)) == found.count
        assert set(flows) == cycles_by_definition(case, hops, keep), f"seed {seed}"


def test_bundles_hold_the_round_trips_of_their_route() -> None:
    for seed in range(1500):
        case, (window, hops, _) = small_graph(seed), settings_of(seed)
        ties = ("strict", "file")[seed % 2]
        found = time_ordered_cycles(*columns(case), window=window, hops=hops, ties=ties, bundles=True)
        by_route: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        for trip in by_definition(case, window, hops, None, ties):
            by_route.setdefault(tuple(int(case["payer"][row]) for row in trip), []).append(trip)
        routes = (
            [tuple(map(int, route)) for route in np.split(found.payer, found.offsets[1:-1])] if found.listed else []
        )
        assert sorted(routes) == sorted(by_route), f"seed {seed}"
        for route, trip, members, value in zip(routes, trips(found), found.bundle, found.value, strict=True):
            assert members == len(by_route[route]), f"seed {seed}"
            assert trip in by_route[route], f"seed {seed}"
            assert value == max(min(int(case["amount"][row]) for row in other) for other in by_route[route])
        assert found.count == sum(map(len, by_route.values()))
        listed = time_ordered_cycles(*columns(case), window=window, hops=hops, ties=ties)
        assert found.count == listed.count
        assert Counter(map(int, listed.bundle)) == Counter(len(b) for b in by_route.values() for _ in b)


def test_the_window_is_closed() -> None:
    assert time_ordered_cycles([0, 1], [1, 0], [10, 20], window=10).count == 1
    assert time_ordered_cycles([0, 1], [1, 0], [10, 20], window=9).count == 0


@pytest.mark.parametrize(("ties", "rows"), [("strict", []), ("file", [(1, 2)]), ("any", [(1, 2)])])
def test_a_round_trip_within_one_tick_counts_as_the_choice_of_ties_says(ties: str, rows: list[tuple[int, ...]]) -> None:
    found = time_ordered_cycles([5, 0, 1], [6, 1, 0], [7, 7, 7], window=0, ties=ties)
    assert trips(found) == rows


def test_the_amount_rule_is_exact_where_floats_are_not() -> None:
    large = 2**62 + 1  # 0.8 * large is no float
    least = -(-large * 4 // 5)
    for paid_back, count in ((least, 1), (least - 1, 0)):
        found = time_ordered_cycles([0, 1], [1, 0], [1, 2], [large, paid_back], window=None, keep=0.8)
        assert found.count == count
    rng = np.random.default_rng(0)
    for _ in range(3000):
        of = int(rng.integers(1, 10**6 + 1))
        share = int(rng.integers(1, of + 1))
        amount = int(2 ** rng.uniform(0, 63))
        least, most = amounts_kept(min(amount, INT64_MAX), share, of)
        amount = min(amount, INT64_MAX)
        assert least == -(-amount * share // of)
        assert most == min(amount * of // share, INT64_MAX)


def test_what_is_said_of_a_round_trip_is_what_it_is() -> None:
    found = time_ordered_cycles([3, 5, 9], [5, 9, 3], [100, 160, 400], [1000, 950, 900], window=300)
    assert (found.value[0], found.fee_lost[0], found.returned[0]) == (900, 100, 0.9)
    table = found.cycles_table().to_pylist()[0]
    assert table["companies"] == [3, 5, 9]
    assert (table["hops"], table["span"], table["bundle"], table["ring"]) == (3, 300, 1, 0)
    names = pa.array([f"company {k}" for k in range(10)])
    steps = found.payments_table(names, pa.array(["x", "y", "z"])).to_pylist()
    assert [step["payment"] for step in steps] == ["x", "y", "z"]
    assert [step["payer"] for step in steps] == ["company 3", "company 5", "company 9"]
    assert [step["step"] for step in steps] == [1, 2, 3]


# --- planted round trips, and any order of anything -------------------------------------------------------------------


@pytest.fixture(scope="module")
def month() -> tuple[Any, ...]:
    payer, payee, second, amount, ring = GRAPHS.payments()
    return payer.astype(np.int32), payee.astype(np.int32), second, np.rint(amount * 100).astype(np.int64), ring


@pytest.mark.parametrize(("hours", "count"), [(72, 1016), (168, 1089)])
def test_all_planted_round_trips_of_a_month_are_found(month: tuple[Any, ...], hours: int, count: int) -> None:
    *payments, ring = month
    found = time_ordered_cycles(*payments, window=hours * HOUR)
    assert found.count == count
    of_ring = [set(ring[list(trip)]) for trip in trips(found)]
    assert {next(iter(one)) for one in of_ring if len(one) == 1} >= set(range(1000))


def test_the_amount_rule_leaves_little_but_the_planted(month: tuple[Any, ...]) -> None:
    *payments, _ = month
    assert time_ordered_cycles(*payments, window=72 * HOUR, keep="0.8").count == 1000
    assert time_ordered_cycles(*payments, window=720 * HOUR, keep="0.8").count == 1007


def test_the_answer_is_the_same_for_any_number_of_threads_and_any_unit_of_time(month: tuple[Any, ...]) -> None:
    payer, payee, second, amount, _ = month
    labels = np.zeros(100_000, np.int32)
    inside = cpu.inside_components(payer, payee, second, amount, labels, None)
    bounds: dict[str, Any] = {"window": 168 * HOUR, "ties": "strict", "chosen": None, "top": None, "seconds": None}
    for limit in (10**6, 300):
        found = [
            cpu.find_round_trips(inside, Rule(99, 1, 0, 1), **bounds, limit=limit, bundles=False, threads=threads)
            for threads in (1, 2, 7)
        ]
        assert trips(found[0]) == trips(found[1]) == trips(found[2])
        assert found[0].limit_reached == (limit == 300)
    nanoseconds = time_ordered_cycles(payer, payee, second * 10**9, amount, window=168 * HOUR * 10**9, hops=99)
    assert trips(nanoseconds) == trips(time_ordered_cycles(payer, payee, second, amount, window=168 * HOUR))


def test_seeds_choose_the_first_payer(month: tuple[Any, ...]) -> None:
    *payments, _ = month
    everything = time_ordered_cycles(*payments, window=72 * HOUR)
    first = everything.payer[everything.offsets[:-1]]
    seeds = np.unique(first)[::7]
    chosen = time_ordered_cycles(*payments, window=72 * HOUR, companies=seeds)
    assert trips(chosen) == [trip for trip, payer in zip(trips(everything), first, strict=True) if payer in seeds]


# --- bounded answers --------------------------------------------------------------------------------------------------


def test_the_limit_is_reported_exactly_when_there_is_more() -> None:
    for seed in range(200):
        case = small_graph(seed)
        everything = time_ordered_cycles(*columns(case), window=None)
        for limit in {1, max(everything.count - 1, 1), max(everything.count, 1), everything.count + 1}:
            found = time_ordered_cycles(*columns(case), window=None, limit=limit)
            assert found.limit_reached == (everything.count > limit)
            assert found.count == min(everything.count, limit)


def test_top_lists_the_most_valuable_also_where_they_cannot_all_be_listed() -> None:
    rng = np.random.default_rng(5)
    payer, payee = rng.integers(0, 60, 3000), rng.integers(0, 60, 3000)
    time, amount = rng.permutation(3000), rng.integers(1, 10**6, 3000)
    everything = time_ordered_cycles(payer, payee, time, amount, window=700, hops=5, limit=10**7)
    assert not everything.limit_reached and everything.count > 10_000
    for limit in (10**7, everything.count // 3):
        found = time_ordered_cycles(payer, payee, time, amount, window=700, hops=5, limit=limit, top=25)
        assert found.limit_reached == (limit < everything.count)
        assert found.complete_from is not None and found.complete_from <= found.value.min()
        assert trips(found) == trips(everything)[:25]


def diamonds(links: int) -> tuple[Any, ...]:
    """A chain in which money splits and merges again `links` times, and then comes back: 2**links round trips."""
    hops = [(3 * k, 3 * k + side, 3 * k + side, 3 * k + 3) for k in range(links) for side in (1, 2)]
    first, second = [(a, b) for a, b, _, _ in hops], [(c, d) for _, _, c, d in hops]
    payer, payee = zip(*first, *second, (3 * links, 0), strict=True)
    time = [2 * (a // 3) for a, _ in first] + [2 * (c // 3) + 1 for c, _ in second] + [2 * links]
    return np.array(payer), np.array(payee), np.array(time)


def test_a_chain_of_diamonds_is_counted_or_says_that_it_is_not() -> None:
    assert time_ordered_cycles(*diamonds(10), window=None).count == 1024
    found = time_ordered_cycles(*diamonds(60), window=None, limit=10_000)
    assert (found.count, found.limit_reached, found.complete_from) == (10_000, True, None)


@pytest.mark.parametrize("hops", [None, 90])
def test_dead_ends_do_not_make_the_search_run_away(hops: int | None) -> None:
    # The payee of 200 -> 0 can pay back at once, or send the money through 2**40 ways that all end at itself.
    payer, payee, time = diamonds(40)
    payer, payee, time = np.append(payer, [200, 0]), np.append(payee, [0, 200]), np.append(time, [-1, 1000])
    found = time_ordered_cycles(payer, payee, time, window=None, companies=[200], hops=hops, seconds=20)
    assert (found.count, found.limit_reached) == (1, False)
    untimed = time_ordered_cycles(payer, payee, None, window=None, companies=[200], hops=hops, seconds=20)
    assert (untimed.count, untimed.limit_reached) == (1, False)


@pytest.mark.parametrize("keep", [None, 0.5])
def test_a_complete_graph_ends_within_its_budget(keep: float | None) -> None:
    rng = np.random.default_rng(0)
    payer, payee = np.nonzero(~np.eye(200, dtype=bool))
    time, amount = rng.permutation(payer.size), rng.integers(1, 10**6, payer.size)
    found = time_ordered_cycles(payer, payee, time, amount, window=None, keep=keep, limit=20_000)
    assert found.limit_reached and found.count == 20_000
    found = time_ordered_cycles(payer, payee, time, amount, window=None, keep=keep, limit=10**6, seconds=0.2)
    assert found.limit_reached and found.count > 0
    found = time_ordered_cycles(payer, payee, None, amount, window=None, limit=20_000)
    assert found.limit_reached and found.count == 20_000


def test_a_hub_of_parallel_payments_is_bounded_when_listed_and_exact_in_bundles() -> None:
    payments = 100_000
    payer, payee = np.arange(payments) % 2, 1 - np.arange(payments) % 2
    time = np.arange(payments)
    found = time_ordered_cycles(payer, payee, time, window=None, limit=50_000)
    assert (found.count, found.limit_reached) == (50_000, True)
    bundled = time_ordered_cycles(payer, payee, time, window=None, bundles=True)
    half = payments // 2
    assert bundled.count == half * (half + 1) // 2 + half * (half - 1) // 2
    assert (bundled.listed, bundled.limit_reached) == (2, False)
    window = 999
    within = sum(len(range(1, min(window, payments - 1 - k) + 1, 2)) for k in range(payments))
    assert time_ordered_cycles(payer, payee, time, window=window, bundles=True).count == within


def test_more_round_trips_than_a_number_holds_are_reported_as_a_limit() -> None:
    hops, parallel = 12, 100  # 100**12 round trips on one route
    payer = np.repeat(np.arange(hops), parallel)
    found = time_ordered_cycles(payer, (payer + 1) % hops, np.arange(payer.size), window=None, bundles=True)
    assert found.limit_reached
    assert found.count >= 2**53


# --- rings ------------------------------------------------------------------------------------------------------------


def test_round_trips_that_share_a_payment_are_one_ring_and_money_counts_once() -> None:
    # 0 -> 1 carries 10; 6 come back straight, 7 through 2: never 13. The pair 5, 6 is a ring of its own.
    found = time_ordered_cycles(
        [0, 1, 1, 2, 5, 6], [1, 0, 2, 0, 6, 5], [1, 2, 3, 4, 1, 2], [10, 6, 7, 8, 3, 4], window=None
    )
    rings = found.rings
    assert found.count == 3
    assert rings.value.tolist() == [10, 3]
    assert (rings.cycles.tolist(), rings.payments.tolist(), rings.companies.tolist()) == ([2, 1], [4, 2], [3, 2])
    assert found.total == 13
    assert found.rings_table().num_rows == 2


def test_the_value_of_a_ring_is_at_most_what_its_payments_carry() -> None:
    for seed in range(300):
        case = small_graph(seed)
        found = time_ordered_cycles(*columns(case), window=None)
        assert found.rings.cycles.sum() == found.count
        assert found.total <= case["amount"].sum()
        for ring in range(found.rings.value.size):
            members = np.flatnonzero(found.rings.ring == ring)
            assert found.rings.value[ring] >= found.value[members].max()
            rows = np.unique(np.concatenate([found.rows[found.offsets[k] : found.offsets[k + 1]] for k in members]))
            assert rows.size == found.rings.payments[ring]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": -1}, "window -1"),
        ({"hops": 1}, "at least 2 payments"),
        ({"keep": 0}, "above 0 and at most 1"),
        ({"keep": 1.5}, "above 0 and at most 1"),
        ({"keep": math.nan}, "above 0 and at most 1"),
        ({"ties": "perhaps"}, "strict, file, any"),
        ({"limit": 0}, "at least 1"),
        ({"top": 5, "limit": 4}, "from 1 to the limit"),
        ({"seconds": 0}, "above 0"),
        ({"bundles": True, "keep": 0.8}, "without the amount rule"),
        ({"time": None, "window": 5}, "need times"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    call: dict[str, Any] = {"payer": [0, 1], "payee": [1, 0], "time": [1, 2], "window": None}
    with pytest.raises(UsageError, match=message):
        time_ordered_cycles(**(call | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"payee": [1]}, "every payment needs one of each"),
        ({"time": [1]}, "one entry for each of the 2 payments"),
        ({"time": [0.5, 1.5]}, "give integers"),
        ({"amount": [1, 0]}, r"amount\[1\] is 0"),
        ({"payer": [0, -1]}, r"payer\[1\] is -1"),
        ({"labels": [0]}, "one per company"),
        ({"companies": [2]}, "the ids are 0..1"),
        ({"time": [-(2**63), 2**63 - 1]}, "coarser unit"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    call: dict[str, Any] = {"payer": [0, 1], "payee": [1, 0], "time": [1, 2], "window": None}
    with pytest.raises(InputError, match=message):
        time_ordered_cycles(**(call | change))


def test_nothing_to_find_is_no_error() -> None:
    for time in ([], None):
        found = time_ordered_cycles([], [], time, window=None)
        assert (found.count, found.limit_reached, found.total, found.complete_from) == (0, False, 0, 0)
        assert found.cycles_table().num_rows == found.payments_table().num_rows == found.rings_table().num_rows == 0
