"""``ouroflow verify OUT``: re-check a stored result from its files alone, sharing no code with the engine.

Only NumPy, SciPy, PyArrow and the standard library are used here, so a mistake of the engine is not repeated by its
judge. (The digest is shared: it is an identity, not a proof.) For every row it is proven that the sums agree to the
last unit, that the components are the strong components, that the boundary balances and that the figures agree with
each other (``proofs``). The round trips themselves are recomputed (``recompute``): for every company of the components
of up to a few thousand companies by a direct inverse that never subtracts, for a sample of companies of larger
components by bounds from below and above, and for the sum of those by own random walks. Where amounts are announced as
ranges, all this is for the stated amounts; the intervals are tried at some hundred other choices of amounts
(``ranges``), none of which may lead out of them. The maximum circulation is proven by its certificate, in exact integers
(``circulation``): one that is feasible, and potentials that bound all others.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from ouroflow.digest import result_digest
from ouroflow.errors import UsageError
from ouroflow.verify.circulation import check_circulation
from ouroflow.verify.figures import check_round_trips
from ouroflow.verify.findings import Check, Findings, VerifyReport
from ouroflow.verify.proofs import check_boundary, check_brackets, check_components, check_flows
from ouroflow.verify.ranges import check_ranges
from ouroflow.verify.recompute import check_recomputed, check_walks
from ouroflow.verify.stored import COMPANIES, COMPONENTS, FLOWS, RANGES, Stored, check_files, check_tables

__all__ = ["Check", "VerifyReport", "verify"]


def check_digest(stored: Stored, found: Findings) -> None:
    """Compute the digest of the tables again."""
    companies, flows, components = (stored.tables[name] for name in (COMPANIES, FLOWS, COMPONENTS))
    stated, digest = stored.run.get("digest"), result_digest(companies, flows, components, stored.tables.get(RANGES))
    found.expect(digest == stated, f"run.json: digest is {stated}, the tables give {digest}")


# name, what is proven, the check, and whether the later ones need it
CHECKS: tuple[tuple[str, str, Callable[[Stored, Findings], None], bool], ...] = (
    ("files", "every file is there and has the SHA-256 of the run", check_files, False),
    ("tables", "columns, types and identities are as they must be", check_tables, True),
    ("flows", "flows are whole, and add up to every company and total", check_flows, True),
    ("components", "trees and order prove the strong components", check_components, True),
    ("brackets", "netting, bilateral and intra-component fractions follow from the flows", check_brackets, True),
    ("boundary", "what enters each company equals what leaves it", check_boundary, True),
    ("circulation", "what could be netted: feasible, and by weak duality no more is", check_circulation, False),
    ("round trips", "figures of companies, flows, components and the whole agree", check_round_trips, True),
    ("recomputed", "round trips found again from the flows", check_recomputed, False),
    ("ranges", "intervals over announced amounts", check_ranges, False),
    ("walks", "the share that returns, sampled", check_walks, False),
    ("digest", "the result digest is that of the tables", check_digest, False),
)


def verify(out: Path, *, progress: Callable[[str], None] | None = None) -> VerifyReport:
    """Re-check everything that the files of an OUT folder state.

    Parameters
    ----------
    out : Path
        The folder that ``ouroflow analyze`` wrote.
    progress : callable, optional
        Called with the name of each check before it begins.

    Returns
    -------
    VerifyReport
        One entry per check, whether it passed or not; ``report.require()`` raises VerificationError if any did not.
        Broken, missing and nonsensical files are findings, never exceptions.

    Raises
    ------
    UsageError
        If there is no such folder.
    """
    if not Path(out).is_dir():
        raise UsageError(f"{out} is not a folder: name the folder that ouroflow analyze wrote (its -o)")
    stored = Stored(Path(out))
    checks: list[Check] = []
    for position, (name, what, check, needed) in enumerate(CHECKS):
        if progress is not None:
            progress(name)
        found = Findings()
        try:
            check(stored, found)
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
            OSError,
            pa.ArrowException,
        ) as error:
            # The files are untrusted: whatever nonsense the checks above did not foresee is a finding too.
            found.expect(False, f"could not be checked ({type(error).__name__}: {error})")
        checks.append(found.as_check(name, what))
        if needed and found.wrong:
            return VerifyReport(stored.out, tuple(checks), tuple(later[0] for later in CHECKS[position + 1 :]))
    return VerifyReport(stored.out, tuple(checks))
