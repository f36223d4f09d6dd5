"""What a verification looks at and finds: the report, and the collector that every check writes into."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ouroflow.errors import VerificationError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

EXAMPLES = 10


@dataclass(frozen=True)
class Check:
    """One check: what was looked at, how many things, and what is wrong with the first of them.

    Parameters
    ----------
    name : str
        Short name, stable.
    what : str
        What was proven, and for whom, in words.
    checked : int
        Number of rows or figures looked at.
    wrong : int
        Number of them that are wrong.
    examples : tuple of str
        The first ten of the wrong ones, each with what was found and what was expected.
    """

    name: str
    what: str
    checked: int
    wrong: int
    examples: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.wrong == 0

    def render(self) -> str:
        """Return the check as a line, with a line more for each example of what is wrong."""
        if self.ok and self.checked == 0:
            return f"-      {self.name}: {self.what}; nothing to check"
        if self.ok:
            return f"ok     {self.name}: {self.what} ({self.checked:,} checked)"
        lines = [f"WRONG  {self.name}: {self.wrong:,} of {self.checked:,} wrong"]
        lines += [f"       {example}" for example in self.examples]
        if self.wrong > len(self.examples):
            lines.append(f"       ... and {self.wrong - len(self.examples):,} more")
        return "\n".join(lines)


@dataclass(frozen=True)
class VerifyReport:
    """The checks of one OUT folder, in order; `not_reached` names those that need what an earlier one found broken."""

    out: Path
    checks: tuple[Check, ...]
    not_reached: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every check was reached and found nothing wrong."""
        return not self.not_reached and all(check.ok for check in self.checks)

    def render(self) -> str:
        """Return the report for people: a line per check, and a last line with the outcome."""
        lines = [check.render() for check in self.checks]
        if self.not_reached:
            lines.append(f"       not reached: {', '.join(self.not_reached)}")
        lines.append(f"{self.out}: {'verified' if self.ok else 'NOT VERIFIED'}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {
            "ok": self.ok,
            "checks": [{**vars(check), "examples": list(check.examples), "ok": check.ok} for check in self.checks],
            "not_reached": list(self.not_reached),
        }

    def require(self) -> None:
        """Raise unless everything is as it must be.

        Raises
        ------
        VerificationError
            Naming the checks that failed, with the first thing found wrong.
        """
        failed = [check for check in self.checks if not check.ok]
        if failed:
            names = ", ".join(check.name for check in failed)
            raise VerificationError(
                f"{self.out} does not agree with its own certificates ({names}): {failed[0].examples[0]}. "
                "The files were altered or damaged after the run, or the run is wrong: analyze the input again"
            )


@dataclass
class Findings:
    """What one check has looked at and found so far."""

    checked: int = 0
    wrong: int = 0
    examples: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def expect(self, ok: bool, message: str) -> bool:
        """Count one thing looked at, and keep the message if it is wrong."""
        self.checked += 1
        if not ok:
            self.wrong += 1
            if len(self.examples) < EXAMPLES:
                self.examples.append(_visible(message))
        return ok

    def expect_integer(self, stated: Any, expected: int, what: str) -> None:
        """Count an integer of a JSON file that must have one value."""
        same = isinstance(stated, int) and not isinstance(stated, bool) and stated == expected
        self.expect(same, f"{what} is {stated!r}, expected {expected}")

    def expect_none(self, wrong: Bools, describe: Callable[[int], str]) -> bool:
        """Count an array of things, and describe the first wrong ones by their position."""
        self.checked += len(wrong)
        bad = np.flatnonzero(wrong)
        self.wrong += len(bad)
        self.examples += [_visible(describe(int(row))) for row in bad[: EXAMPLES - len(self.examples)]]
        return len(bad) == 0

    def expect_same(self, stated: npt.NDArray[Any], expected: npt.NDArray[Any], name: Callable[[int], str]) -> bool:
        """Count integers that must be equal, named by their position."""
        return self.expect_none(
            np.asarray(stated != expected, np.bool_),
            lambda row: f"{name(row)} is {stated[row]}, expected {expected[row]}",
        )

    def expect_near(self, stated: Floats, expected: Floats, relative: float, name: Callable[[int], str]) -> bool:
        """Count figures that must agree to a relative tolerance; NaN stands for null and agrees with NaN only."""
        with np.errstate(invalid="ignore"):
            near = np.abs(stated - expected) <= relative * np.abs(expected)
        near |= np.isnan(stated) & np.isnan(expected)
        return self.expect_none(
            ~near, lambda row: f"{name(row)} is {float(stated[row])!r}, expected {float(expected[row])!r}"
        )

    def expect_within(
        self, stated: Floats, low: Floats, high: Floats, name: Callable[[int], str], among: Bools | None = None
    ) -> bool:
        """Count figures that must lie in an interval, of all rows or of those `among`; NaN lies in none."""
        outside = ~((low <= stated) & (stated <= high))
        return self.expect_none(
            outside if among is None else outside & among,
            lambda row: f"{name(row)} is {float(stated[row])!r}, expected {float(low[row])!r} to {float(high[row])!r}",
        )

    def as_check(self, name: str, what: str) -> Check:
        """Return what was found as a check of the report."""
        return Check(name, "; ".join([what, *self.notes]), self.checked, self.wrong, tuple(self.examples))


def _visible(message: str) -> str:
    """Return a message whose characters cannot drive a terminal: names in the files are hostile text."""
    return "".join(
        f"\\u{ord(character):04x}" if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") else character
        for character in message
    )


def pair(first: Ints, second: Ints, companies: int) -> Ints:
    """Return one number per pair of companies (in int64 up to three thousand million companies)."""
    return first * companies + second


def contains(keys: Ints, wanted: Ints) -> Bools:
    """Return which of the wanted numbers are among the sorted keys."""
    if len(keys) == 0:
        return np.zeros(len(wanted), np.bool_)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.asarray(keys[at] == wanted)


def sums(index: Ints, values: Ints, size: int) -> Ints:
    """Return sums of values by index, -1 where a sum is past int64 (summed in halves, so that none wraps around)."""
    high, low = np.zeros(size, np.int64), np.zeros(size, np.int64)
    np.add.at(high, index, values >> 32)
    np.add.at(low, index, values & 0xFFFFFFFF)
    high += low >> 32
    return np.where(high < 2**31, (high << 32) + (low & 0xFFFFFFFF), -1)


def total(values: Ints) -> int:
    """Return the sum as a Python integer, whatever its size."""
    return (int((values >> 32).sum()) << 32) + int((values & 0xFFFFFFFF).sum())
