"""The answer of ``ouroflow analyze`` on a terminal: how much comes back, to whom, through whom, and on what it rests."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ouroflow.certified import Certified
from ouroflow.graph import exact_sum
from ouroflow.ledger import schema
from ouroflow.report.tables import identities
from ouroflow.report.text import money, percent, percent_interval, printable

if TYPE_CHECKING:
    from ouroflow.analysis import Analysis
    from ouroflow.circulation import Circulation
    from ouroflow.graph import FlowGraph
    from ouroflow.roundtrip import RoundTrip

ROWS = 15
"""Companies shown; all of them are in companies.parquet."""


_Cell = Callable[[int], str]


@dataclass(frozen=True)
class _Column:
    """One column of the table of companies."""

    title: str
    cell: _Cell
    number: bool = True
    from_width: int = 0
    """Left out on terminals narrower than this."""


def print_answer(analysis: Analysis, out: str | None) -> None:
    """Print the answer to stdout."""
    width = None if sys.stdout.isatty() else 140
    console = Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=True, width=width)
    _print_input(console, analysis)
    _print_caveat(console, analysis)
    if analysis.roundtrip is not None:
        _print_returns(console, analysis, analysis.roundtrip)
    _print_brackets(console, analysis)
    if analysis.circulation is not None:
        _print_circulation(console, analysis, analysis.circulation, out is not None)
    if analysis.roundtrip is not None:
        _print_companies(console, analysis, analysis.roundtrip, out is not None)
    if out is not None:
        console.print(
            f"\nWritten to {out}: ouroflow verify {shlex.quote(out)} checks it, "
            f"ouroflow trace {shlex.quote(out)} COMPANY explains a company."
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


def _print_caveat(console: Console, analysis: Analysis) -> None:
    if analysis.caveats:
        console.print(f"  {' '.join(analysis.caveats[0].split())}  [ouroflow datasets {analysis.name}]")


def _print_returns(console: Console, analysis: Analysis, answer: RoundTrip) -> None:
    hops = analysis.settings.hops
    limit = f" within {hops} payments" if hops else ""
    console.print(
        f"\nOf all that is paid, {percent_interval(answer.fraction)} comes back to its payer through others{limit}."
        f"  [{answer.fraction.method}]"
    )
    console.print(
        "  Money that a company receives is taken to leave it in proportion to what it pays; what is not paid on leaves the loop."
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


def _print_circulation(console: Console, analysis: Analysis, circulation: Circulation, wrote: bool) -> None:
    total, decimals, unit = analysis.graph.total, analysis.settings.decimals, analysis.settings.unit
    netted = exact_sum(circulation.amount)
    console.print(
        f"\nThe most that can be netted on closed loops is {percent_interval(circulation.fraction)} of all that is paid "
        f"(maximum circulation).  [{circulation.fraction.method}]"
    )
    console.print(
        f"  total before netting {money(total, decimals)}, after it {money(total - netted, decimals)} {unit}".rstrip()
        + ("; who sets off what with whom: netting.parquet" if wrote else "")
    )
    console.print(
        "  This circulation is one of many optimal ones: only its size, and the flows that every one of them fills "
        "or leaves empty, are unique."
    )


def _print_companies(console: Console, analysis: Analysis, answer: RoundTrip, wrote: bool) -> None:
    settings, returned = analysis.settings, answer.companies
    shown = company_order(returned.round_trip, analysis.named)[: max(ROWS, len(analysis.named))]
    if not shown.size:
        return
    columns = [column for column in _columns(analysis, answer) if console.width >= column.from_width]
    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="bold")
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.number else "left",
            no_wrap=column.number or column is columns[0],
            min_width=12 if column is columns[0] else None,
            overflow="ellipsis" if column is columns[0] else "fold",
        )
    for company in shown:
        table.add_row(*(Text(column.cell(int(company))) for column in columns))
    unit = f" ({settings.unit})" if settings.unit else ""
    asked = "those asked for first, then " if analysis.named else ""
    console.print(f"\nCompanies, {asked}by money that comes back{unit}:")
    console.print(table)
    if columns[-1].number and not np.isnan(answer.flows).any():  # too narrow for the column that says through whom
        console.print("\nIt comes back mostly through (of what they are paid):")
        for company in shown:
            console.print(f"  {columns[0].cell(int(company))}: {_through(analysis.graph, answer.flows, int(company))}")
    more = int(np.count_nonzero(returned.round_trip > 0)) - len(shown)
    if more > 0:
        console.print(f"  and {more:,} more" + (" in companies.parquet" if wrote else "; -o OUT writes them all"))


def _columns(analysis: Analysis, answer: RoundTrip) -> list[_Column]:
    """Return the columns of the table; on a narrow terminal those that matter less are left out."""
    graph, decimals, returned = analysis.graph, analysis.settings.decimals, answer.companies
    names = identities(graph)

    def share(value: npt.NDArray[np.float64], low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]) -> _Cell:
        return lambda k: _share(value[k], low[k], high[k])

    columns = [
        _Column("\ncompany", lambda k: printable(names[k].as_py()), number=False),
        _Column("\npays", lambda k: money(int(graph.paid[k]), decimals)),
        _Column("\nreceives", lambda k: money(int(graph.received[k]), decimals), from_width=100),
        _Column("comes\nback", lambda k: money(float(returned.round_trip[k]), decimals)),
        _Column("share of\nwhat it pays", share(returned.return_fraction, returned.return_low, returned.return_high)),
        _Column(
            "share of\nwhat it receives",
            share(returned.self_funded, returned.self_low, returned.self_high),
            from_width=135,
        ),
    ]
    if not np.isnan(answer.flows).any():
        title = "comes back mostly through\n(of what it pays them)"
        columns.append(_Column(title, lambda k: _through(graph, answer.flows, k), number=False, from_width=110))
    return columns


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
    names = identities(graph)
    order = [k for k in np.argsort(-back, kind="stable")[:most] if back[k] > 0]
    return ", ".join(
        f"{printable(names[int(graph.payee[span][k])].as_py())} {percent(float(flows[span][k]))}" for k in order
    )
