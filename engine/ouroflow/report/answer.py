"""The answer of ``ouroflow analyze`` on a terminal: how much comes back, to whom, through whom, and on what it rests."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ouroflow.certified import Certified
from ouroflow.ledger import schema
from ouroflow.report.tables import identities
from ouroflow.report.text import money, percent, percent_interval, printable

if TYPE_CHECKING:
    from ouroflow.analysis import Analysis
    from ouroflow.graph import FlowGraph
    from ouroflow.roundtrip import RoundTrip

ROWS = 15
"""Companies shown; all of them are in companies.parquet."""


def print_answer(analysis: Analysis, out: str | None) -> None:
    """Print the answer to stdout."""
    width = None if sys.stdout.isatty() else 140
    console = Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=True, width=width)
    _print_input(console, analysis)
    if analysis.roundtrip is not None:
        _print_returns(console, analysis, analysis.roundtrip)
    _print_brackets(console, analysis)
    if analysis.roundtrip is not None:
        _print_companies(console, analysis, analysis.roundtrip)
    if out is not None:
        console.print(
            f"\nWritten to {out}: ouroflow verify {out} checks it, ouroflow trace {out} COMPANY explains a company."
        )


def _print_input(console: Console, analysis: Analysis) -> None:
    rows, graph, settings = analysis.ledger.rows, analysis.graph, analysis.settings
    console.print(
        f"{printable(analysis.name)}: {rows.read:,} rows; {rows.used:,} payments between {graph.companies:,} companies, "
        f"{graph.flows:,} flows, {money(graph.total, settings.decimals)} {settings.unit}".rstrip()
    )
    by_status = ", ".join(f"{count:,} {printable(status)}" for status, count in analysis.ledger.not_selected.items())
    left_out = {"to oneself": rows.self_payments, **rows.rejected}
    named = [
        f"{count:,} {reason}" + (f" ({by_status})" if reason == schema.REASONS[schema.NOT_SELECTED] else "")
        for reason, count in left_out.items()
        if count
    ]
    if named:
        console.print("  left out: " + ", ".join(named))
    totals = analysis.ledger.totals_by_status
    if totals and graph.total:
        parts = sorted(totals.items(), key=lambda item: -item[1])
        console.print(
            "  it rests on: "
            + ", ".join(f"{printable(status)} {percent(sum_ / graph.total)}" for status, sum_ in parts)
        )


def _print_returns(console: Console, analysis: Analysis, answer: RoundTrip) -> None:
    hops = analysis.settings.hops
    limit = f" within {hops} payments" if hops else ""
    console.print(
        f"\nOf all that is paid, {percent_interval(answer.fraction)} comes back to its payer through others{limit}."
        f"  [{answer.fraction.method}]"
    )


def _print_brackets(console: Console, analysis: Analysis) -> None:
    brackets, components = analysis.brackets, analysis.components
    console.print(
        f"  paid on closed loops (inside strong components) {percent_interval(brackets.intra_component)}; "
        f"could be netted at most {percent_interval(brackets.netting)}; "
        f"between two companies alone {percent_interval(brackets.bilateral)}"
    )
    console.print(
        f"  components of two companies or more: {components.nontrivial:,}"
        + (
            f"; the largest holds {components.largest:,} companies"
            if components.nontrivial
            else "; no money can come back"
        )
    )


def _print_companies(console: Console, analysis: Analysis, answer: RoundTrip) -> None:
    graph, settings = analysis.graph, analysis.settings
    returned = answer.companies
    shown = company_order(returned.round_trip, analysis.named)[: max(ROWS, len(analysis.named))]
    if not shown.size:
        return
    names = identities(graph)
    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="bold")
    table.add_column("\ncompany", overflow="fold")
    for title in ("\npays", "\nreceives", "comes\nback", "share of\nwhat it pays", "share of\nwhat it receives"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("comes back mostly through\n(of what it pays them)", overflow="fold")
    for company in shown:
        table.add_row(
            Text(printable(names[int(company)].as_py())),
            money(int(graph.paid[company]), settings.decimals),
            money(int(graph.received[company]), settings.decimals),
            money(float(returned.round_trip[company]), settings.decimals),
            _share(returned.return_fraction[company], returned.return_low[company], returned.return_high[company]),
            _share(returned.self_funded[company], returned.self_low[company], returned.self_high[company]),
            Text(_through(graph, answer.flows, int(company))),
        )
    unit = f" ({settings.unit})" if settings.unit else ""
    console.print(f"\nCompanies by money that comes back{unit}:")
    console.print(table)
    more = int(np.count_nonzero(returned.round_trip > 0)) - len(shown)
    if more > 0:
        console.print(f"  and {more:,} more in companies.parquet")


def company_order(money_back: npt.NDArray[np.float64], named: Sequence[int] = ()) -> npt.NDArray[np.int64]:
    """Return the companies with round-trip money, those with most first, and those asked for by name before them."""
    order = np.lexsort((np.arange(money_back.size), -money_back))
    order = order[money_back[order] > 0]
    first = np.array(named, np.int64)
    return np.concatenate([first, order[~np.isin(order, first)]])


def _share(value: float, low: float, high: float) -> str:
    return "-" if math.isnan(value) else percent_interval(Certified(float(value), float(low), float(high), ""))


def _through(graph: FlowGraph, flows: npt.NDArray[np.float64], company: int, most: int = 3) -> str:
    """Name the payees whose money comes back most, with the share of what they are paid that returns."""
    span = slice(int(graph.out_offsets[company]), int(graph.out_offsets[company + 1]))
    back = graph.amount[span] * flows[span]
    if np.isnan(back).any():
        return "(ouroflow trace)"
    names = identities(graph)
    order = [k for k in np.argsort(-back, kind="stable")[:most] if back[k] > 0]
    return ", ".join(
        f"{printable(names[int(graph.payee[span][k])].as_py())} {percent(float(flows[span][k]))}" for k in order
    )
