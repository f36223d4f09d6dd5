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
