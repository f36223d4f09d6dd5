"""Independent oracles for the round-trip measures: dense NumPy for figures, rational numbers where every digit counts."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt


@dataclass
class Answer:
    """What the oracle says: RTF, FCI, C_i and r_e (a matrix, NaN without flow)."""

    fraction: float
    finn: float
    round_trip: npt.NDArray[np.float64]
    flows: npt.NDArray[np.float64]


def dense(
    weights: npt.NDArray[np.float64],
    inflow: npt.NDArray[np.float64] | None = None,
    outflow: npt.NDArray[np.float64] | None = None,
) -> Answer:
    """Leontief inverse of a flow matrix; components without any leak must not be among them."""
    w = np.array(weights, float)
    np.fill_diagonal(w, 0.0)
    paid, received = w.sum(1), w.sum(0)
    throughflow = np.maximum(received + (0 if inflow is None else inflow), paid + (0 if outflow is None else outflow))
    share = w / np.where(throughflow > 0, throughflow, 1.0)[:, None]
    visits = np.linalg.inv(np.eye(len(w)) - share)
    returns = 1 - 1 / np.diag(visits)
    hits = visits.T / np.diag(visits)[:, None]
    round_trip = throughflow * returns
    return Answer(
        round_trip.sum() / w.sum(),
        round_trip.sum() / throughflow.sum(),
        round_trip,
        np.where(w > 0, hits, np.nan),
    )


def rational(weights: list[list[int]]) -> tuple[Fraction, Fraction, list[Fraction]]:
    """RTF, FCI and C_i in exact rational numbers, by solving h = P h with h_root = 1 for every company.

    Unknowns that cannot reach the root are 0; a system is solved on the companies that can, where it is never singular
    (either some money leaks, or everything returns and the root's own equation is not part of the system).
    """
    n = len(weights)
    paid = [sum(row[j] for j in range(n) if j != i) for i, row in enumerate(weights)]
    received = [sum(weights[i][j] for i in range(n) if i != j) for j in range(n)]
    through = [max(a, b) for a, b in zip(paid, received, strict=True)]
    round_trip = []
    for root in range(n):
        reach = _reaching(weights, root)
        unknown = sorted(reach - {root})
        rows = []
        for i in unknown:
            row = [Fraction(-weights[i][j], through[i]) + (1 if i == j else 0) for j in unknown]
            row[unknown.index(i)] = Fraction(1)
            rows.append([*row, Fraction(weights[i][root], through[i])])
        hit = dict(zip(unknown, _solve(rows), strict=True)) | {root: Fraction(1)}
        round_trip.append(sum((weights[root][j] * hit.get(j, Fraction(0)) for j in range(n) if j != root), Fraction(0)))
    total = sum(paid)
    whole = sum(round_trip, Fraction(0))
    return (whole / total if total else Fraction(0)), (whole / sum(through) if total else Fraction(0)), round_trip


def hop_limited(weights: npt.NDArray[np.float64], hops: int) -> npt.NDArray[np.float64]:
    """C_i of round trips of at most `hops` payments, by powers with an absorbing root."""
    w = np.array(weights, float)
    np.fill_diagonal(w, 0.0)
    throughflow = np.maximum(w.sum(0), w.sum(1))
    share = w / np.where(throughflow > 0, throughflow, 1.0)[:, None]
    round_trip = np.zeros(len(w))
    for root in range(len(w)):
        walking = share[root].copy()
        for _ in range(hops - 1):
            walking[root] = 0.0
            walking = walking @ share
            round_trip[root] += throughflow[root] * walking[root]
    return round_trip


def _reaching(weights: list[list[int]], root: int) -> set[int]:
    found, todo = {root}, [root]
    while todo:
        j = todo.pop()
        for i, row in enumerate(weights):
            if row[j] and i != j and i not in found:
                found.add(i)
                todo.append(i)
    return found


def _solve(rows: list[list[Fraction]]) -> list[Fraction]:
    size = len(rows)
    for k in range(size):
        pivot = next(i for i in range(k, size) if rows[i][k] != 0)
        rows[k], rows[pivot] = rows[pivot], rows[k]
        rows[k] = [value / rows[k][k] for value in rows[k]]
        for i in range(size):
            if i != k and rows[i][k] != 0:
                factor = rows[i][k]
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k], strict=True)]
    return [row[-1] for row in rows]
