"""Round-trip fractions: how much of what is paid comes back to its payer under proportional mixing.

The door of the room: it chooses the method, once, and puts the parts together. The methods stand beside it: exact by
elimination (`cpu_exact`), absorbing panel push (`cpu_push`), seeded walks (`cpu_walks`), and the one-pass `brackets`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ouroflow.certified import Certified
from ouroflow.errors import UsageError
from ouroflow.roundtrip.brackets import Brackets, brackets

if TYPE_CHECKING:
    from ouroflow.components import Components
    from ouroflow.graph import FlowGraph

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CompanyReturns:
    """Round-trip money of every company, float64 minor units, each array of shape (companies,).

    Attributes
    ----------
    round_trip : ndarray
        C_i = T_i rho_i: what leaves the company and comes back to it.
    low, high : ndarray
        Bounds of C_i; equal to `round_trip` where it is exact.
    """

    round_trip: Floats
    low: Floats
    high: Floats

    def of(self, company: int, method: str) -> Certified:
        """Return the round-trip money of one company with its bounds."""
        return Certified(float(self.round_trip[company]), float(self.low[company]), float(self.high[company]), method)


@dataclass(frozen=True, eq=False)
class RoundTrip:
    """The answer of the room.

    Attributes
    ----------
    fraction : Certified
        RTF = sum C_i / W.
    finn : Certified
        Finn cycling index sum C_i / sum T_i (Finn 1976).
    brackets : Brackets
        Netting, intra-component and bilateral fraction, exact.
    companies : CompanyReturns
        C_i of every company.
    flows : ndarray of float64, shape (flows,)
        Return fraction r_e of every flow; NaN where the method does not give it.
    method : str
        How the companies were computed, in words.
    """

    fraction: Certified
    finn: Certified
    brackets: Brackets
    companies: CompanyReturns
    flows: Floats
    method: str


def round_trip_fractions(
    graph: FlowGraph,
    components: Components | None = None,
    *,
    tolerance: float = 1e-3,
    confidence: float = 0.99,
    hops: int | None = None,
    top: int = 100,
    companies: Sequence[int] = (),
    seed: int = 0,
) -> RoundTrip:
    """Compute how much of what every company pays comes back to it, and of what everybody pays.

    Components that elimination can handle are solved exactly. For the others the graph's fraction is sampled by seeded walks,
    whose starts screen all companies at the same time; then the `top` companies by that screen and the ones asked for are
    certified by panel push.

    Parameters
    ----------
    graph : FlowGraph
        n companies, m flows, int64 minor units.
    components : Components, optional
        Strong components of `graph`; computed when not given.
    tolerance : float
        Half-width that the sampled fraction and the certified companies' return fractions are driven to. 0 asks for the exact
        method whatever it costs.
    confidence : float
        Level of sampled intervals; they hold one by one, not all at once.
    hops : int, optional
        Count returns within so many payments only, at least 2 (2 is plain reciprocity).
    top : int
        Companies certified beyond the screen.
    companies : sequence of int
        Ids of companies to certify too.
    seed : int
        Seed of the walks, 0 <= seed < 2^64.

    Returns
    -------
    RoundTrip

    Raises
    ------
    UsageError
        If a setting is out of range.
    ResourceError
        If exact figures were asked for and the memory at hand does not hold their dense core.

    Notes
    -----
    Definitions: throughflow analysis with the smallest boundary that balances (Finn 1976, J. Theor. Biol. 56; Fath and Patten
    1999). Walks and components use the same proportional mixing, so all methods estimate the same number.
    """
    from ouroflow.components import components_of

    _check(tolerance, confidence, hops, top, companies, seed, graph.companies)
    if components is None:
        components = components_of(graph)
    work = _Work.begin(graph, components)
    if hops is None:
        work.solve_exactly(tolerance)
    elif hops == 2 or _steps_to_push_all(graph, components, hops) <= _PUSH_ALL:
        work.push_all(hops)
    if work.open.any():
        work.sample(tolerance, confidence, hops, seed)
        work.certify(tolerance, hops, top, companies)
    return work.finish()
