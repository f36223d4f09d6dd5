"""An OUT folder written from a small graph by dense oracles (NumPy, SciPy, plain Python), without the engine."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import csgraph, csr_array

from ouroflow.digest import record_sha256, result_digest

RANGES = "certificate/ranges.parquet"
CIRCULATION = ("netting.parquet", "certificate/circulation.parquet", "certificate/potentials.parquet")
TABLES = (
    "companies.parquet",
    "flows.parquet",
    "components.parquet",
    "certificate/components.parquet",
    "certificate/order.parquet",
)


def hitting_probabilities(
    weights: npt.NDArray[np.float64], throughflow: npt.NDArray[np.float64], hops: int | None = None
) -> npt.NDArray[np.float64]:
    """h[j, i]: probability that money at j comes to i (in at most hops - 1 payments), 1 on the diagonal."""
    n = len(weights)
    share = weights / np.where(throughflow > 0, throughflow, 1)[:, None]
    hits = np.eye(n)
    for root in range(n):
        if hops is not None:
            column = np.eye(n)[root]
            for _ in range(hops - 1):
                column = share @ column
                column[root] = 1
            hits[:, root] = column
            continue
        reach = _reaching(weights, root)
        others = np.array([j for j in reach if j != root], int)
        if len(others):
            system = np.eye(len(others)) - share[np.ix_(others, others)]
            hits[others, root] = np.linalg.solve(system, share[others, root])
    return np.clip(hits, 0, 1)


def _reaching(weights: npt.NDArray[np.float64], root: int) -> list[int]:
    found, todo = {root}, deque([root])
    while todo:
        j = todo.popleft()
        for i in np.flatnonzero(weights[:, j]):
            if int(i) not in found:
                found.add(int(i))
                todo.append(int(i))
    return sorted(found)


def strong_labels(weights: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], int]:
    """Component of each company, 0 = largest, ties by smallest company."""
    count, raw = csgraph.connected_components(csr_array(weights > 0), connection="strong")
    groups = sorted((np.flatnonzero(raw == k).tolist() for k in range(count)), key=lambda group: (-len(group), group))
    labels = np.zeros(len(weights), np.int64)
    for label, group in enumerate(groups):
        labels[group] = label
    return labels, count


def _tree(weights: npt.NDArray[np.float64], members: list[int]) -> dict[int, tuple[int | None, int]]:
    """Breadth-first tree towards the first member: the next company on the way, and the distance."""
    inside, root = set(members), members[0]
    tree: dict[int, tuple[int | None, int]] = {root: (None, 0)}
    todo = deque([root])
    while todo:
        j = todo.popleft()
        for i in map(int, np.flatnonzero(weights[:, j])):
            if i in inside and i not in tree:
                tree[i] = (j, tree[j][1] + 1)
                todo.append(i)
    return tree


def _ranks(weights: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], count: int) -> list[int]:
    """Length of the longest chain of components that leads to each one."""
    chains = {(int(labels[i]), int(labels[j])) for i, j in np.argwhere(weights > 0) if labels[i] != labels[j]}
    rank = [0] * count
    for _ in range(count):
        for source, target in chains:
            rank[target] = max(rank[target], rank[source] + 1)
    return rank


def write_out(
    out: Path,
    payer: list[int],
    payee: list[int],
    amount: list[int],
    *,
    names: list[Any] | None = None,
    companies: int | None = None,
    external: tuple[list[int], list[int]] | None = None,
    hops: int | None = None,
    half_width: float = 0.0,
    measured: bool = True,
    ranges: dict[tuple[int, int], tuple[int, int]] | None = None,
) -> Path:
    """Write an OUT folder.

    `external` are known external flows (inflow, outflow). With a `half_width`, round trips are stated as intervals of
    that share of the round trip to either side instead of exactly. Without `measured`, there are components only.
    `ranges` are announced lows and highs of flows; the intervals over them are then as wide as they can be.
    """
    n = companies or max([*payer, *payee, -1]) + 1
    weights, payments = np.zeros((n, n), object), np.zeros((n, n), int)
    own = 0
    for i, j, money in zip(payer, payee, amount, strict=True):
        own += i == j
        if i != j:
            weights[i, j] += money
            payments[i, j] += 1
    identity = list(range(n)) if names is None else names
    paid, received = [int(sum(row)) for row in weights], [int(sum(row)) for row in weights.T]
    inflow, outflow = external or ([0] * n, [0] * n)
    through = [max(b + z, a + y) for a, b, z, y in zip(paid, received, inflow, outflow, strict=True)]
    dense = weights.astype(float)
    labels, count = strong_labels(dense)
    sizes = np.bincount(labels, minlength=count) if n else np.zeros(0, int)
    hits = hitting_probabilities(dense, np.array(through, float), hops)
    same = labels[:, None] == labels[None, :]
    back = np.minimum(np.where(same & (dense > 0), dense * hits.T, 0).sum(1), np.minimum(paid, received))
    flows = [(int(i), int(j)) for i, j in np.argwhere(dense > 0)]
    nontrivial = int((sizes >= 2).sum())
    total, stated = int(sum(paid)), (lambda figures: figures if measured else [None] * len(figures))
    low, high = back * (1 - half_width), np.minimum(back * (1 + half_width), np.minimum(paid, received))
    if ranges:
        most = float(total + sum(top for _, top in ranges.values()))
        low, high = back * 0, np.where(sizes[labels] > 1, most, 0.0)

    def quotients(parts: Any, wholes: list[int]) -> list[float | None]:
        return [float(part / whole) if whole else None for part, whole in zip(parts, wholes, strict=True)]

    def fractions(name: str, wholes: list[int]) -> dict[str, pa.Array]:
        ends = [quotients(parts, wholes) for parts in (back, low, high)]
        if ranges:
            ends[1:] = [[None if part is None else end for part in ends[0]] for end in (0.0, 1.0)]
        return {
            f"{name}_fraction{end}": pa.array(stated(parts), reals)
            for end, parts in zip(("", "_low", "_high"), ends, strict=True)
        }

    inside = [(i, j) for i, j in flows if labels[i] == labels[j]]
    returns = [float(hits[j, i]) if labels[i] == labels[j] else 0.0 for i, j in flows]
    key = pa.string() if names is not None and any(isinstance(name, str) for name in names) else pa.int64()
    ints, reals, small = pa.int64(), pa.float64(), pa.int32()
    to_root: dict[int, tuple[int | None, int]] = {}
    from_root: dict[int, tuple[int | None, int]] = {}
    for label in range(nontrivial):
        members = np.flatnonzero(labels == label).tolist()
        to_root |= _tree(dense, members)
        from_root |= _tree(dense.T, members)
    looped = sorted(to_root)

    def neighbours(tree: dict[int, tuple[int | None, int]]) -> pa.Array:
        nearer = [tree[i][0] for i in looped]
        return pa.array([None if j is None else identity[j] for j in nearer], key)

    tables = {
        "companies.parquet": {
            "company": pa.array(identity, key),
            "paid": pa.array(paid, ints),
            "received": pa.array(received, ints),
            "component": pa.array(labels, small),
            "round_trip": pa.array(stated(back), reals),
            "round_trip_low": pa.array(stated(low), reals),
            "round_trip_high": pa.array(stated(high), reals),
            **fractions("return", paid),
            **fractions("self_funded", received),
            "external_in": pa.array([t - r for t, r in zip(through, received, strict=True)], ints),
            "external_out": pa.array([t - p for t, p in zip(through, paid, strict=True)], ints),
        },
        "flows.parquet": {
            "payer": pa.array([identity[i] for i, _ in flows], key),
            "payee": pa.array([identity[j] for _, j in flows], key),
            "amount": pa.array([weights[i, j] for i, j in flows], ints),
            "payments": pa.array([payments[i, j] for i, j in flows], ints),
            "component": pa.array([int(labels[i]) if labels[i] == labels[j] else None for i, j in flows], small),
            "return_fraction": pa.array(stated(returns), reals),
            "round_trip": pa.array(stated([weights[e] * r for e, r in zip(flows, returns, strict=True)]), reals),
        },
        "components.parquet": {
            "component": pa.array(range(nontrivial), small),
            "companies": pa.array(sizes[:nontrivial], ints),
            "flows": pa.array([sum(labels[i] == c for i, _ in inside) for c in range(nontrivial)], ints),
            "amount": pa.array([sum(weights[e] for e in inside if labels[e[0]] == c) for c in range(nontrivial)], ints),
            "round_trip": pa.array(stated([float(back[labels == c].sum()) for c in range(nontrivial)]), reals),
            "circulation_low": pa.nulls(nontrivial, reals),
            "circulation_high": pa.nulls(nontrivial, reals),
        },
        "certificate/components.parquet": {
            "company": pa.array([identity[i] for i in looped], key),
            "component": pa.array([int(labels[i]) for i in looped], small),
            "to_root": neighbours(to_root),
            "to_root_depth": pa.array([to_root[i][1] for i in looped], small),
            "from_root": neighbours(from_root),
            "from_root_depth": pa.array([from_root[i][1] for i in looped], small),
        },
        "certificate/order.parquet": {
            "component": pa.array(range(count), small),
            "rank": pa.array(_ranks(dense, labels, count), ints),
        },
    }

    def figure(value: float, width: float = 0.0, method: str = "exact") -> dict[str, Any]:
        if ranges:
            method = "exact at the stated amounts; interval proven"
            return {"value": value, "low": 0.0, "high": 1.0, "method": method}
        return {"value": value, "low": value * (1 - width), "high": min(1.0, value * (1 + width)), "method": method}

    unbalanced = sum(abs(p - r) for p, r in zip(paid, received, strict=True))
    mutual = sum(min(weights[i, j], weights[j, i]) for i, j in flows)
    method = "bounds" if half_width else "exact"
    whole = float(back.sum())
    summary = {
        "companies": n,
        "flows": len(flows),
        "transactions": int(payments.sum()),
        "total": total,
        "components": {"count": count, "nontrivial": nontrivial, "largest": int(max(sizes, default=0))},
        "round_trip_fraction": figure(whole / (total or 1), half_width, method) if measured else None,
        "finn_cycling_index": figure(whole / (sum(through) or 1), half_width, method) if measured else None,
        "max_circulation_fraction": None,
        "netting_fraction": figure((2 * total - unbalanced) / (2 * total) if total else 0.0),
        "bilateral_fraction": figure(mutual / (total or 1)),
        "intra_component_fraction": figure(sum(weights[e] for e in inside) / (total or 1)),
        "cycles": None,
    }
    used = int(payments.sum())
    run = {
        "rows": {"read": used + own + 3, "used": used, "self_payments": own, "rejected": {"null": 2, "negative": 1}},
        "settings": {"decimals": 2, "unit": "USD", "hops": hops, **({} if external else {"boundary": None})},
        "tables": {},
        "digest": "",
    }
    (out / "certificate").mkdir(parents=True)
    if ranges:
        at = [int(weights[flow]) for flow in ranges]
        columns = {
            "payer": pa.array([identity[i] for i, _ in ranges], key),
            "payee": pa.array([identity[j] for _, j in ranges], key),
            "low": pa.array([low for low, _ in ranges.values()], ints),
            "high": pa.array([high for _, high in ranges.values()], ints),
            "attained_low": pa.array(at, ints),
            "attained_high": pa.array(at, ints),
        }
        pq.write_table(pa.table(columns), out / RANGES)
    for name in TABLES:
        pq.write_table(pa.table(tables[name]), out / name)
    (out / "summary.json").write_text(json.dumps(summary))
    (out / "run.json").write_text(json.dumps(run))
    seal(out, digest=True)
    return out


def tables_of(out: Path) -> list[str]:
    """Names of the tables of a folder."""
    return [*TABLES, *(name for name in (RANGES, *CIRCULATION) if (out / name).exists())]


def seal(out: Path, *, digest: bool = False) -> None:
    """Write the SHA-256 of all files, as they are now, to run.json; with `digest` the result digest too."""
    run = json.loads((out / "run.json").read_text())
    for name in [*tables_of(out), "summary.json"]:
        run["tables"][name] = hashlib.sha256((out / name).read_bytes()).hexdigest()
    if digest:
        ranges = [RANGES] if (out / RANGES).exists() else []
        run["digest"] = result_digest(*(pq.read_table(out / name) for name in [*TABLES[:3], *ranges]))
    (out / "run.json").write_text(json.dumps({**run, "sha256": record_sha256(run)}))


def random_payments(
    seed: int, companies: int, payments: int, largest: int = 1000
) -> tuple[list[int], list[int], list[int]]:
    """Payers, payees and amounts drawn at random, payments to oneself and parallel ones among them."""
    draw = np.random.default_rng(seed)
    payer, payee = (draw.integers(0, companies, payments).tolist() for _ in range(2))
    return payer, payee, draw.integers(1, largest, payments).tolist()
