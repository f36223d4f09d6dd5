"""What is proven for every row from exact integers: sums, strong components, one-pass fractions, boundary."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from ouroflow.verify.findings import Findings, Ints, contains, pair, sums, total
from ouroflow.verify.stored import COMPANIES, COMPONENTS, FLOWS, ORDER, TREES, Stored


def check_flows(stored: Stored, found: Findings) -> None:
    """Check the flows, and every sum of them, in integers."""
    payments, companies = stored.integers(FLOWS, "payments"), len(stored.paid)
    found.expect_none(stored.amount <= 0, lambda row: f"{stored.flow(row)} has the amount {stored.amount[row]}")
    found.expect_none(payments < 1, lambda row: f"{stored.flow(row)} has {payments[row]} payments")
    found.expect_none(stored.payer == stored.payee, lambda row: f"{stored.flow(row)} pays itself")
    keys = np.sort(pair(stored.payer, stored.payee, companies))
    found.expect_none(
        keys[1:] == keys[:-1],
        lambda row: " pays ".join(stored.name(end) for end in divmod(int(keys[row]), companies)) + " in two flows",
    )
    for column, ends, stated in (("paid", stored.payer, stored.paid), ("received", stored.payee, stored.received)):
        found.expect_same(stated, sums(ends, stored.amount, companies), stored.of_company(column))
    transactions = total(payments)
    counted = {
        "companies": companies,
        "flows": len(stored.amount),
        "transactions": transactions,
        "total": stored.total,
    }
    for key, expected in counted.items():
        found.expect_integer(stored.summary.get(key), expected, f"summary.json: {key}")
    _expect_rows(stored.run.get("rows"), transactions, found)


def _expect_rows(rows: Any, transactions: int, found: Findings) -> None:
    """Check that run.json accounts for every row that was read."""
    if not isinstance(rows, dict) or not isinstance(rows.get("rejected"), dict):
        found.expect(False, "run.json has no 'rows' with read, used, self_payments and rejected by reason")
        return
    counts = [rows.get("read"), rows.get("used"), rows.get("self_payments"), *rows["rejected"].values()]
    whole = all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts)
    if not found.expect(whole, f"run.json: rows must be counts, found {rows}"):
        return
    read, used, *left_out = counts
    found.expect(
        read == used + sum(left_out), f"run.json: {read} rows read, but {used} used and {sum(left_out)} left out"
    )
    found.expect(used == transactions, f"run.json: {used} rows used, but the flows hold {transactions} payments")


def check_components(stored: Stored, found: Findings) -> None:
    """Check that the components are exactly the strong components, from the two trees and the order."""
    labels = stored.component
    if not found.expect_none(
        (labels < 0) | (labels >= len(labels)), lambda row: f"{stored.name(row)} has the component {labels[row]}"
    ):
        return
    sizes = stored.sizes
    found.expect_none(sizes == 0, lambda label: f"component {label} has no company, but higher numbers exist")
    found.expect_none(sizes[1:] > sizes[:-1], lambda label: f"component {label + 1} is larger than component {label}")
    _expect_trees(stored, found)
    _expect_order(stored, found)
    if found.wrong:
        return
    _expect_component_table(stored, found)
    stated = stored.summary.get("components")
    counted = {"count": len(sizes), "nontrivial": int((sizes >= 2).sum()), "largest": int(max(sizes, default=0))}
    for key, expected in counted.items():
        figure = stated.get(key) if isinstance(stated, dict) else None
        found.expect_integer(figure, expected, f"summary.json: components.{key}")


def _expect_trees(stored: Stored, found: Findings) -> None:
    """Check that in each component every company reaches one root, and is reached from it, along flows inside.

    Depths fall by one at each step along an existing flow of the component, so every company has such a path; with one
    root per component, the same in both trees, the component is strongly connected.
    """
    labels, sizes, companies = stored.component, stored.sizes, len(stored.paid)
    company, component = stored.rows_of(TREES, "company"), stored.integers(TREES, "component")
    listed = np.bincount(company, minlength=companies)
    once = found.expect_same(
        listed, (sizes[labels] >= 2).astype(np.int64), lambda row: f"{TREES}: number of rows of {stored.name(row)}"
    )
    same = found.expect_same(
        component, labels[company], lambda row: f"{TREES}: component of {stored.name(company[row])}"
    )
    if not (once and same):
        return
    flows = np.sort(pair(stored.payer, stored.payee, companies))
    to_root = _expect_tree(stored, "to_root", company, flows, found)
    from_root = _expect_tree(stored, "from_root", company, flows, found)
    found.expect(np.array_equal(to_root, from_root), f"{TREES}: the two trees of a component have different roots")


def _expect_tree(stored: Stored, tree: str, company: Ints, flows: Ints, found: Findings) -> Ints:
    """Check one tree per component, given the sorted keys of all flows; return the roots in order."""
    labels, sizes, companies = stored.component, stored.sizes, len(stored.paid)
    step, depth = stored.rows_of(TREES, tree), stored.integers(TREES, f"{tree}_depth")
    depth_of = np.full(companies, -1, np.int64)
    depth_of[company] = depth
    root = step < 0
    found.expect_none(
        (depth == 0) != root, lambda row: f"{TREES}: {tree}_depth of {stored.name(company[row])} is {depth[row]}"
    )
    roots = np.bincount(labels[company[root]], minlength=len(sizes))
    found.expect_same(
        roots, (sizes >= 2).astype(np.int64), lambda label: f"{TREES}: number of {tree} roots of component {label}"
    )
    at, to = company[~root], step[~root]
    payer, payee = (at, to) if tree == "to_root" else (to, at)
    sound = contains(flows, pair(payer, payee, companies)) & (labels[at] == labels[to])
    sound &= (depth_of[to] >= 0) & (depth_of[at] == depth_of[to] + 1)
    found.expect_none(
        ~sound, lambda row: f"{TREES}: {tree} of {stored.name(at[row])} is not a flow inside, one step nearer the root"
    )
    return np.sort(company[root])


def _expect_order(stored: Stored, found: Findings) -> None:
    """Check that the rank of a component is the length of the longest chain of components that leads to it.

    Then every flow between components goes up in rank: no path returns, and no two components are one.
    """
    count = len(stored.sizes)
    component, rank = stored.integers(ORDER, "component"), stored.integers(ORDER, "rank")
    if not found.expect(
        np.array_equal(np.sort(component), np.arange(count)), f"{ORDER} must list each of {count} components once"
    ):
        return
    rank_of = np.zeros(count, np.int64)
    rank_of[component] = rank
    source, target = (stored.component[ends[~stored.inside]] for ends in (stored.payer, stored.payee))
    chain = np.zeros(count, np.int64)
    np.maximum.at(chain, target, rank_of[source] + 1)
    found.expect_same(rank_of, chain, lambda label: f"{ORDER}: rank of component {label}")


def _expect_component_table(stored: Stored, found: Findings) -> None:
    """Check the integers of components.parquet, and the component column of the flows."""
    sizes, labels = stored.sizes, stored.integers(COMPONENTS, "component")
    count = int((sizes >= 2).sum())
    if not found.expect(
        np.array_equal(np.sort(labels), np.arange(count)), f"{COMPONENTS} must list each of {count} components once"
    ):
        return
    inside = np.where(stored.inside, stored.component[stored.payer], -1)
    found.expect_same(stored.integers(FLOWS, "component"), inside, stored.of_flow("component (-1 for none)"))
    label, amount = inside[stored.inside], stored.amount[stored.inside]
    for column, expected in (
        ("companies", sizes[:count]),
        ("flows", np.bincount(label, minlength=count)),
        ("amount", sums(label, amount, count)),
    ):
        found.expect_same(
            stored.integers(COMPONENTS, column),
            expected[labels],
            lambda row, column=column: f"component {labels[row]}: {column}",  # type: ignore[misc]
        )


def check_brackets(stored: Stored, found: Findings) -> None:
    """Recompute the figures of one pass over the flows, from integers; a quotient is rounded once."""
    whole = stored.total or 1
    unbalanced = total(np.abs(stored.received - stored.paid))
    stored.brackets = {
        "netting_fraction": float(Fraction(2 * stored.total - unbalanced, 2 * whole)),
        "bilateral_fraction": float(Fraction(_mutual(stored), whole)),
        "intra_component_fraction": float(Fraction(total(stored.amount[stored.inside]), whole)),
    }
    for key, expected in stored.brackets.items():
        stated = stored.certified(key)
        if stated is None:
            found.expect(False, f"summary.json: {key} must be a fraction with low <= value <= high")
            continue
        # One minus a quotient loses up to an ulp of one, hence the absolute part. Over ranges the value alone is exact.
        figures = stated[1:2] if stored.ranged else stated
        near = all(abs(figure - expected) <= 3e-16 + 1e-15 * expected for figure in figures)
        found.expect(
            near and figures[0] == figures[-1], f"summary.json: {key} is {stated}, expected {expected!r}, exactly known"
        )


def _mutual(stored: Stored) -> int:
    """Return the sum of min(w_ij, w_ji) over all flows i -> j."""
    companies = len(stored.paid)
    keys = pair(stored.payer, stored.payee, companies)
    order = np.argsort(keys)
    keys, amount = keys[order], stored.amount[order]
    back = pair(stored.payee[order], stored.payer[order], companies)
    both = contains(keys, back)
    return total(np.minimum(amount[both], amount[np.searchsorted(keys, back[both])]))


def check_boundary(stored: Stored, found: Findings) -> None:
    """Check in integers that what enters each company equals what leaves it."""
    external_in, external_out = (stored.integers(COMPANIES, f"external_{way}") for way in ("in", "out"))
    for column, values in (("external_in", external_in), ("external_out", external_out)):
        found.expect_same(values, np.maximum(values, 0), stored.of_company(column))
    # Each sum of two int64 fits uint64. Together with external >= 0, equality says that the throughflow is at least
    # what is paid and what is received.
    entering = stored.received.astype(np.uint64) + external_in.astype(np.uint64)
    leaving = stored.paid.astype(np.uint64) + external_out.astype(np.uint64)
    found.expect_same(entering, leaving, stored.of_company("received + external_in"))
    found.expect_none(
        entering > np.uint64(2**63 - 1),
        lambda row: f"{stored.name(row)}: the throughflow {entering[row]} is past int64",
    )
    settings = stored.run.get("settings")
    if isinstance(settings, dict) and "boundary" in settings and settings["boundary"] is None:
        least = np.maximum(stored.paid, stored.received).astype(np.uint64)
        found.expect_same(entering, least, stored.of_company("throughflow (no external flows are known)"))
        found.notes.append("no external flows were given, and the implied ones are the least")
