"""``ouroflow trace OUT COMPANY``: who returns a company's money, after how many payments, and along which paths.

Everything is computed from companies.parquet and flows.parquet alone. Money that leaves the company is followed under
proportional mixing, as in the round-trip measure, until it comes back or leaves the component for good. The round-trip
money C_i is split three times, each split adding up to it: by who is paid first, by who pays it back last, and by the
number of payments on the way.
"""

from __future__ import annotations

import difflib
import heapq
import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy import sparse
from scipy.sparse import csgraph

from ouroflow.certified import Certified
from ouroflow.errors import InputError, UsageError
from ouroflow.report.text import money, percent, percent_interval, printable

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

DIRECT_LIMIT = 1_500
"""Companies of a component that is solved directly; larger ones are iterated between bounds."""
ITERATION_WORK = 2e9
"""Flows x steps that an iteration may take: about ten seconds; the bounds hold after any number of steps."""
WIDTH = 1e-12
"""Width of an interval, relative to what the company pays, at which an iteration is done."""
PATH_STEPS = 200_000
"""Steps that the search for paths may take."""
BAR = 40
NAME_WIDTH = 32


@dataclass(frozen=True)
class Part:
    """A part of a company's round-trip money.

    Attributes
    ----------
    name : str or int
        The counterparty, or the number of payments of the round trip.
    flow : int
        What is paid between the two directly, minor units; 0 where there is no such flow.
    money : Certified
        The part, minor units.
    fraction : Certified
        The part as a share of all that the company pays.
    """

    name: str | int
    flow: int
    money: Certified
    fraction: Certified


@dataclass(frozen=True)
class ReturnPath:
    """A path company -> ... -> company without repetition, with what comes back along exactly this path."""

    companies: tuple[str | int, ...]
    money: float
    fraction: float

    @property
    def hops(self) -> int:
        """Number of payments."""
        return len(self.companies) - 1


@dataclass(frozen=True)
class Trace:
    """Where the round-trip money of a company goes and comes from; money in minor units.

    Attributes
    ----------
    company : str or int
        Its identity.
    paid, received : int
        All that it pays and receives.
    component_companies : int
        Size of its strong component.
    round_trip : Certified
        C_i; return_fraction is its share of what the company pays, self_funded_fraction of what it receives.
    paid_first : tuple of Part
        By the counterparty that is paid first, the largest first; `paid_first_others` is the sum of those not listed.
    returned_last : tuple of Part
        By the counterparty that pays it back last; `returned_last_others` is the sum of those not listed.
    by_hops : tuple of Part
        By the number of payments, from 2; `more_hops` is what takes longer.
    paths : tuple of ReturnPath
        Strongest paths, the strongest first.
    limit_reached : bool
        Whether the search for paths stopped at its limit: those listed are the strongest, but fewer than asked for.
    hop_limit : int or None
        Longest round trip that the run counted; longer ones are outside of everything here.
    over_ranges : tuple of float or None
        Bounds of the return fraction over announced ranges of amounts; everything else is at the stated amounts.
    """

    company: str | int
    paid: int
    received: int
    component_companies: int
    round_trip: Certified
    paid_first: tuple[Part, ...]
    paid_first_others: Part
    returned_last: tuple[Part, ...]
    returned_last_others: Part
    by_hops: tuple[Part, ...]
    more_hops: Part
    paths: tuple[ReturnPath, ...]
    limit_reached: bool
    hop_limit: int | None
    over_ranges: tuple[float, float] | None
    decimals: int
    unit: str

    @property
    def return_fraction(self) -> Certified | None:
        """Share of what the company pays that comes back, None if it pays nothing."""
        return _over(self.round_trip, self.paid) if self.paid else None

    @property
    def self_funded_fraction(self) -> Certified | None:
        """Share of what the company receives that is its own money, None if it receives nothing."""
        return _over(self.round_trip, self.received) if self.received else None

    def as_dict(self) -> dict[str, Any]:
        """Return the trace for JSON."""
        content = asdict(self)
        for key in ("return_fraction", "self_funded_fraction"):
            figure = getattr(self, key)
            content[key] = None if figure is None else figure.as_dict()
        return content


@dataclass(frozen=True)
class _Settings:
    """What run.json says about the run, as far as a trace depends on it."""

    decimals: int
    unit: str
    hops: int | None


@dataclass(frozen=True)
class _Surroundings:
    """A company within its component, whose companies are 0..k-1 in the order of companies.parquet."""

    names: pa.Array
    root: int
    paid: int
    received: int
    flows: sparse.csr_array
    """What is paid inside, int64 minor units, shape (k, k)."""
    onward: sparse.csr_array
    """The same as a share of each payer's throughflow."""
    leaving: Floats
    """The root's row of `flows`."""
    arriving: Floats
    """The root's column of `onward`."""
    over_ranges: tuple[float, float] | None
    """Bounds of the root's return fraction over announced ranges, as companies.parquet states them."""

    def identity(self, company: int) -> str | int:
        """Return the identity of a company of the component."""
        identity: str | int = self.names[int(company)].as_py()
        return identity


@dataclass(frozen=True)
class _Split:
    """Bounds of a number per company of the component."""

    low: Floats
    high: Floats
    method: str

    def certified(self, companies: Ints) -> Certified:
        """Return the sum over some companies."""
        low, high = float(self.low[companies].sum()), float(self.high[companies].sum())
        return Certified((low + high) / 2, low, high, self.method)


def trace(out: Path, company: str, *, top: int = 10, hops: int = 12) -> Trace:
    """Decompose a company's round-trip money from the files of an OUT folder.

    Parameters
    ----------
    out : Path
        The folder that ``ouroflow analyze`` wrote.
    company : str
        Identity of the company, as in companies.parquet.
    top : int
        Counterparties and paths listed.
    hops : int
        Longest round trip that is listed apart.

    Returns
    -------
    Trace
        Direct solutions are exact up to rounding; larger components are iterated between certified bounds.

    Raises
    ------
    UsageError
        If there is no such folder or company, or a number makes no sense.
    InputError
        If the files cannot be read.
    """
    if top < 1 or hops < 2:
        raise UsageError(
            f"top {top}, hops {hops}: at least 1 counterparty, and no round trip has fewer than 2 payments"
        )
    settings = _read_settings(Path(out))
    around = _read_surroundings(Path(out), company)
    hits = _hits(around, settings.hops)
    first = _Split(around.leaving * hits.low, around.leaving * hits.high, hits.method)
    last = _last(around, hits, settings.hops)
    total = first.certified(np.arange(len(around.names)))
    by_hops, more = _by_hops(around, total, hops, settings.hops)
    found, limit_reached = _paths(around, top, settings.hops)
    paid_first, paid_first_others = _parts(around, first, around.flows[[around.root]].toarray().ravel(), top)
    returned_last, returned_last_others = _parts(around, last, _column(around.flows, around.root), top)
    return Trace(
        company=around.identity(around.root),
        paid=around.paid,
        received=around.received,
        component_companies=len(around.names),
        round_trip=total,
        paid_first=paid_first,
        paid_first_others=paid_first_others,
        returned_last=returned_last,
        returned_last_others=returned_last_others,
        by_hops=tuple(_part(around, count, 0, part) for count, part in enumerate(by_hops, 2)),
        more_hops=_part(around, "more", 0, more),
        paths=tuple(ReturnPath(tuple(map(around.identity, path)), along, along / around.paid) for path, along in found),
        limit_reached=limit_reached,
        hop_limit=settings.hops,
        over_ranges=around.over_ranges,
        decimals=settings.decimals,
        unit=settings.unit,
    )


def _read_settings(out: Path) -> _Settings:
    """Read the settings of the run."""
    if not (out / "run.json").is_file():
        raise UsageError(f"{out} holds no run.json: name the folder that ouroflow analyze wrote (its -o)")
    try:
        settings = json.loads((out / "run.json").read_text(encoding="utf-8"))["settings"]
        decimals, hops = int(settings["decimals"]), settings.get("hops")
        return _Settings(decimals, str(settings.get("unit", "")), None if hops is None else int(hops))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{out}/run.json cannot be used ({error!r}): run ouroflow verify {out}") from error


def _read_surroundings(out: Path, company: str) -> _Surroundings:
    """Read the company and the flows of its component."""
    try:
        columns = [
            "company",
            "paid",
            "received",
            "component",
            "external_in",
            "return_fraction_low",
            "return_fraction_high",
        ]
        companies = pq.read_table(out / "companies.parquet", columns=columns)
        row = _find(companies["company"], company)
        label = companies["component"][row].as_py()
        members = pc.equal(companies["component"], label)
        # Flows between components carry no component, so only those inside pass.
        flows = pq.read_table(
            out / "flows.parquet", columns=["payer", "payee", "amount"], filters=[("component", "=", label)]
        )
        paid, received = (companies[column][row].as_py() for column in ("paid", "received"))
        bounds = tuple(companies[f"return_fraction_{end}"][row].as_py() for end in ("low", "high"))
        companies = companies.filter(members)
        names = companies["company"].combine_chunks()
        through = pc.add(companies["received"], companies["external_in"]).to_numpy().astype(np.float64)
        root = pc.index_in(pa.scalar(_parsed(names.type, company), names.type), value_set=names).as_py()
        ends = [
            pc.index_in(flows[column].cast(names.type), value_set=names).to_numpy().astype(np.int32)
            for column in ("payer", "payee")
        ]
        amount = flows["amount"].to_numpy().astype(np.int64)
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise InputError(f"the tables of {out} cannot be used ({error}): run ouroflow verify {out}") from error
    shape = (len(names), len(names))
    inside = sparse.csr_array((amount, tuple(ends)), shape=shape)
    onward = sparse.csr_array((amount / through[ends[0]], tuple(ends)), shape=shape)
    leaving = inside[[root]].toarray().ravel().astype(np.float64)
    over = bounds if (out / "certificate" / "ranges.parquet").is_file() else None
    return _Surroundings(names, root, paid, received, inside, onward, leaving, _column(onward, root), over)


def _parsed(kind: pa.DataType, company: str) -> str | int | None:
    """Return the text of an identity as a value of the identities' type, None if it cannot be one."""
    if not pa.types.is_integer(kind):
        return company
    try:
        return int(company) if -(2**63) <= int(company) < 2**63 else None
    except ValueError:
        return None


def _find(names: pa.ChunkedArray, company: str) -> int:
    """Return the row of a company, or say which names come near."""
    wanted = _parsed(names.type, company)
    row = -1 if wanted is None else pc.index(names, pa.scalar(wanted, names.type)).as_py()
    if row >= 0:
        return int(row)
    texts = names.cast(pa.large_string())
    holding = texts.filter(pc.match_substring(texts, company, ignore_case=True)).slice(0, 5).to_pylist()
    # Comparing all of millions of names would take minutes.
    near = holding or difflib.get_close_matches(company, texts.slice(0, 50_000).to_pylist(), 5, 0.6)
    hint = f"; near it: {', '.join(printable(name) for name in near)}" if near else ""
    raise UsageError(f"no company '{printable(company)}' among the {len(names):,} of companies.parquet{hint}")


def _column(matrix: sparse.csr_array, column: int) -> npt.NDArray[Any]:
    """Return a column as a dense vector."""
    return np.asarray(matrix[:, [column]].toarray().ravel())


def _hits(around: _Surroundings, hop_limit: int | None) -> _Split:
    """Return the probability that money at each company comes (back) to the root; 0 at the root itself.

    Directly, or between what has arrived after k payments and what has not left for good (monotone iteration).
    """
    size, root = len(around.names), around.root
    low, high = np.zeros(size), np.ones(size)
    high[root] = 0.0
    if hop_limit is None and size <= DIRECT_LIMIT:
        system = np.eye(size) - around.onward.toarray()
        system[root] = system[:, root] = 0.0
        system[root, root] = 1.0
        direct = np.clip(np.linalg.solve(system, np.where(np.arange(size) == root, 0.0, around.arriving)), 0.0, 1.0)
        return _Split(direct, direct, "exact: direct solution")
    steps = _most_steps(around, hop_limit)
    taken, first = 0, np.flatnonzero(around.leaving)
    while taken < steps:
        low, high = (around.onward @ hits + around.arriving for hits in (low, high))
        low[root] = high[root] = 0.0
        taken += 1
        if hop_limit is None and around.leaving[first] @ (high[first] - low[first]) <= WIDTH * around.paid:
            break
    if hop_limit is not None:
        return _Split(low, low, f"exact: at most {hop_limit} payments")
    # Both sequences carry rounding of an ulp a step; the bounds are kept in order.
    return _Split(np.minimum(low, high), np.clip(high, low, 1.0), f"bounds from both sides after {taken} steps")


def _most_steps(around: _Surroundings, hop_limit: int | None) -> int:
    """Return the number of steps of an iteration; a limited one takes a payment less than the round trip."""
    return max(20, int(ITERATION_WORK / max(1, around.flows.nnz))) if hop_limit is None else hop_limit - 1


def _last(around: _Surroundings, hits: _Split, hop_limit: int | None) -> _Split:
    """Return the money that each company pays back to the root as the last of a round trip.

    It is what passes through the company before the return, times the share that it pays to the root.
    """
    size, root = len(around.names), around.root
    if hop_limit is None and size <= DIRECT_LIMIT:
        system = (np.eye(size) - around.onward.toarray()).T
        system[root] = system[:, root] = 0.0
        system[root, root] = 1.0
        passing = np.maximum(np.linalg.solve(system, around.leaving), 0.0)
        return _Split(passing * around.arriving, passing * around.arriving, hits.method)
    backward = around.onward.T.tocsr()
    walking, passing = around.leaving.copy(), np.zeros(size)
    for _ in range(_most_steps(around, hop_limit)):
        passing += walking
        walking = backward @ walking
        walking[root] = 0.0
        # Whoever pays back last, what is still on its way returns no more than this.
        # (A sum, not a product: BLAS starts threads for it that wait longer for each other than this takes.)
        left = float((walking * hits.high).sum())
        if hop_limit is None and left <= WIDTH * around.paid:
            break
    low = passing * around.arriving
    if hop_limit is not None:
        return _Split(low, low, hits.method)
    return _Split(low, np.where(around.arriving > 0, low + left, 0.0), hits.method)


def _by_hops(
    around: _Surroundings, total: Certified, hops: int, hop_limit: int | None
) -> tuple[list[Certified], Certified]:
    """Return what comes back after exactly 2, 3, ... `hops` payments, and what takes more."""
    backward = around.onward.T.tocsr()
    walking, listed = around.leaving.copy(), []
    for _ in range(2, min(hops, hop_limit or hops) + 1):
        listed.append(Certified.exact(float(walking @ around.arriving), "exact: so many payments"))
        walking = backward @ walking
        walking[around.root] = 0.0
    within = sum(part.value for part in listed)
    value, low, high = (max(0.0, end - within) for end in (total.value, total.low, total.high))
    return listed, Certified(value, low, high, total.method)


def _part(around: _Surroundings, name: str | int, flow: int, part: Certified) -> Part:
    """Return a part with its share of what the company pays."""
    return Part(name, flow, part, _over(part, around.paid))


def _over(figure: Certified, whole: int) -> Certified:
    """Return money as a share; 0 of nothing."""
    divisor = whole or 1
    return Certified(figure.value / divisor, figure.low / divisor, figure.high / divisor, figure.method)


def _parts(around: _Surroundings, split: _Split, flow: Ints, top: int) -> tuple[tuple[Part, ...], Part]:
    """Return the largest parts by counterparty, and the sum of the others."""
    counterparties = np.flatnonzero(flow)
    order = counterparties[np.argsort(-split.low[counterparties], kind="stable")]
    listed = tuple(_part(around, around.identity(j), int(flow[j]), split.certified(np.array([j]))) for j in order[:top])
    rest = order[top:]
    return listed, _part(around, "others", int(flow[rest].sum()), split.certified(rest))


def _paths(around: _Surroundings, top: int, hop_limit: int | None) -> tuple[list[tuple[tuple[int, ...], float]], bool]:
    """Return the paths root -> ... -> root, without repetition, along which most money comes back.

    Best-first search: a path begun is worth at most the money at its end times the best path from there to the root,
    repetition allowed, which one run of Dijkstra's algorithm gives for all companies. So paths are completed in order.
    Returns also whether the search stopped at `PATH_STEPS`.
    """
    root, best = around.root, _best_returns(around)
    successors: dict[int, tuple[Ints, Floats, Floats]] = {}

    def onward_from(company: int) -> tuple[Ints, Floats, Floats]:
        """Return the payees of a company, what part each gets, and at most how much returns through each."""
        if company not in successors:
            span = slice(*around.onward.indptr[company : company + 2])
            payees, parts = around.onward.indices[span], around.onward.data[span]
            parts = around.flows.data[span] if company == root else parts
            bound = parts * best[payees]
            order = np.argsort(-bound, kind="stable")
            order = order[bound[order] > 0]
            successors[company] = payees[order], parts[order], bound[order]
        return successors[company]

    # Entries: (-bound, path, rank of the payee to go to next or -1 for a complete path, money at the end of the path).
    # Bounds of paths begun are a little too high, so that rounding cannot put a complete path before a better one.
    heap: list[tuple[float, tuple[int, ...], int, float]] = []

    def begin(path: tuple[int, ...], rank: int, along: float) -> None:
        bounds = onward_from(path[-1])[2]
        if rank < len(bounds):
            heapq.heappush(heap, (-along * float(bounds[rank]) * (1 + 1e-9), path, rank, along))

    begin((root,), 0, 1.0)
    found: list[tuple[tuple[int, ...], float]] = []
    for _ in range(PATH_STEPS):
        if not heap or len(found) == top:
            return found, False
        _, path, rank, along = heapq.heappop(heap)
        if rank < 0:
            found.append((path, along))
            continue
        begin(path, rank + 1, along)
        payees, parts, _ = onward_from(path[-1])
        payee, further = int(payees[rank]), along * float(parts[rank])
        if payee == root:
            heapq.heappush(heap, (-further, (*path, root), -1, further))
        elif payee not in path and (hop_limit is None or len(path) < hop_limit):
            begin((*path, payee), 0, further)
    return found, bool(heap) and len(found) < top


def _best_returns(around: _Surroundings) -> Floats:
    """Return the largest product of shares along any path from each company to the root, 1 at the root."""
    reverse = around.onward.T.tocsr()
    reverse.data = -np.log(np.minimum(reverse.data, 1.0))
    # A share of 1 is a length of 0, which must stay an entry.
    reverse.data[reverse.data == 0] = np.finfo(float).tiny
    return np.asarray(np.exp(-csgraph.dijkstra(reverse, indices=around.root)), np.float64)


def render(found: Trace, unit: str | None = None) -> str:
    """Return a trace as plain text for a terminal.

    Parameters
    ----------
    found : Trace
    unit : str, optional
        Unit of money in words, that of the run by default.

    Returns
    -------
    str
        Lines without a final newline. Names cannot drive the terminal: control characters are made visible.
    """
    unit = printable(found.unit if unit is None else unit)
    return "\n".join(_lines(found, unit))


def _lines(found: Trace, unit: str) -> Iterator[str]:
    """Yield the lines of a trace."""
    name, back = printable(found.company), found.round_trip
    paid, received, returned = (_amount(figure, found, unit) for figure in (found.paid, found.received, back.value))
    yield f"{name} pays {paid} and receives {received}"
    if back.high == 0:
        yield "nothing comes back: it is on no closed loop" if found.component_companies == 1 else "nothing comes back"
        return
    fractions = [figure for figure in (found.return_fraction, found.self_funded_fraction) if figure is not None]
    shares = " and ".join(
        f"{percent_interval(share)} of what it {verb}"
        for share, verb in zip(fractions, ("pays", "receives"), strict=True)
    )
    limit = "" if found.hop_limit is None else f" within {found.hop_limit} payments"
    yield f"{returned} comes back{limit}: {shares}  [{back.method}]"
    if found.over_ranges is not None:
        low, high = found.over_ranges
        yield f"at the stated amounts; over their announced ranges {percent(low)} to {percent(high)} of what it pays"
    yield f"its component holds {found.component_companies:,} companies"
    yield from _part_lines("paid first", "paid", found.paid_first, found.paid_first_others, found)
    yield from _part_lines("paid back last by", "receives", found.returned_last, found.returned_last_others, found)
    yield from _hop_lines(found)
    yield from _path_lines(found, unit)


def _amount(minor: float, found: Trace, unit: str) -> str:
    return f"{money(minor, found.decimals)} {unit}".rstrip()


def _part_lines(title: str, verb: str, parts: tuple[Part, ...], others: Part, found: Trace) -> Iterator[str]:
    """Yield a table of counterparties."""
    rows = [(title, verb, "comes back", "of all paid")]
    listed = [*parts, others] if others.money.high > 0 else list(parts)
    for part in listed:
        flow, back = (money(figure, found.decimals) for figure in (part.flow, part.money.value))
        rows.append((_short(str(part.name)), flow, back, percent_interval(part.fraction)))
    yield ""
    yield from _aligned(rows)


def _hop_lines(found: Trace) -> Iterator[str]:
    """Yield a bar per number of payments."""
    parts = [*found.by_hops, found.more_hops] if found.more_hops.money.high > 0 else list(found.by_hops)
    while parts and parts[-1].money.value == 0:
        parts.pop()
    longest = max((part.money.value for part in parts), default=0.0) or 1.0
    rows = [("payments", "comes back", "of all paid", "")]
    for part in parts:
        bar = "\u2588" * round(BAR * part.money.value / longest)
        rows.append((str(part.name), money(part.money.value, found.decimals), percent(part.fraction.value), bar))
    yield ""
    yield from _aligned(rows, left=(0, 3))


def _path_lines(found: Trace, unit: str) -> Iterator[str]:
    """Yield the strongest paths."""
    yield ""
    yield "strongest return paths" + (" (the search stopped at its limit)" if found.limit_reached else "")
    rows = [
        (_amount(path.money, found, unit), percent(path.fraction), " -> ".join(map(_short, map(str, path.companies))))
        for path in found.paths
    ]
    yield from _aligned(rows, left=(2,))


def _short(name: str) -> str:
    """Return a name that fits a column and cannot drive the terminal."""
    shown = printable(name)
    return shown if len(shown) <= NAME_WIDTH else f"{shown[: NAME_WIDTH - 1]}\u2026"


def _aligned(rows: Sequence[tuple[str, ...]], left: tuple[int, ...] = (0,)) -> Iterator[str]:
    """Yield rows with aligned columns, those named in `left` to the left and the others to the right."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = []
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            blank = " " * (width - _width(cell))
            cells.append(cell + blank if column in left else blank + cell)
        yield "  " + "  ".join(cells).rstrip()


def _width(text: str) -> int:
    """Return the terminal columns of a text: Korean, Chinese and Japanese characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )
