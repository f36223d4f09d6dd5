"""``Certified``: a figure with the interval that is proven, or sampled at a stated level, to hold it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Certified:
    """A figure and its proof: ``low <= value <= high``, and how that is known.

    Parameters
    ----------
    value : float
        The figure itself, in the unit of the measure (fractions are in [0, 1], money in minor units).
    low, high : float
        Bounds of the true value. Equal to `value` for exact methods.
    method : str
        How the bounds are known. Sampled intervals name their confidence level here.

    Raises
    ------
    ValueError
        If the three numbers are not finite or not in order: such a figure must never leave the engine.
    """

    value: float
    low: float
    high: float
    method: str

    def __post_init__(self) -> None:
        """Refuse figures that contradict themselves."""
        if not all(map(math.isfinite, (self.value, self.low, self.high))):
            raise ValueError(f"a certified figure must be finite, got {self.low} <= {self.value} <= {self.high}")
        if not self.low <= self.value <= self.high:
            raise ValueError(
                f"a certified figure must lie in its interval, got {self.low} <= {self.value} <= {self.high}"
            )

    @classmethod
    def exact(cls, value: float, method: str = "exact") -> Certified:
        """Return a figure known exactly: low and high equal the value."""
        return cls(float(value), float(value), float(value), method)

    @property
    def width(self) -> float:
        """Length of the interval, 0 for exact figures."""
        return self.high - self.low

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form of summary.json: value, low, high, method."""
        return {"value": self.value, "low": self.low, "high": self.high, "method": self.method}

    def __str__(self) -> str:
        """Return the figure for people, with the interval where there is one."""
        if self.width == 0:
            return f"{self.value:.6g}"
        return f"{self.value:.6g} [{self.low:.6g}, {self.high:.6g}]"
