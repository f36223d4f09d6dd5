"""Words and numbers for people: amounts in major units, shares in per cent, names made harmless for a terminal."""

from __future__ import annotations

import unicodedata

from ouroflow.certified import Certified


def printable(name: object) -> str:
    """Return a name with control and format characters made visible: a company name must not drive the reader's terminal."""
    return "".join(
        char if unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") else f"\\u{ord(char):04x}"
        for char in str(name)
    )


def money(minor: float, decimals: int) -> str:
    """Return minor units as a grouped amount in major units; digits behind the point only where the amount is small."""
    major = minor / 10**decimals
    shown = 0 if abs(major) >= 1000 else decimals
    if abs(major) < 1000 and float(minor) != int(minor):
        shown = max(shown, 2)  # round-trip money is rarely a whole number of minor units
    return f"{major:,.{shown}f}"


def percent(fraction: float) -> str:
    """Return a share in per cent with one digit, two below one per cent."""
    if fraction and abs(fraction) < 0.01:
        return f"{100 * fraction:.2g}%"
    return f"{100 * fraction:.1f}%"


def percent_interval(figure: Certified) -> str:
    """Return a share with its interval, where it has one that shows."""
    if percent(figure.low) == percent(figure.high):
        return percent(figure.value)
    return f"{percent(figure.value)} ({percent(figure.low)} to {percent(figure.high)})"
