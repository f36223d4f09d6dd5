"""The maximum circulation in the product: asked for, answered, written, and proven again from the files alone."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import ouroflow
from ouroflow.circulation import max_circulation
from ouroflow.cli import main
from ouroflow.digest import result_digest
from ouroflow.errors import UsageError, VerificationError
from ouroflow.verify import verify
from outfolder import CIRCULATION, seal
from simt.host import HostAccelerator

pytestmark = pytest.mark.cpu

MEASURES = ["components", "roundtrip", "circulation"]
FLOWS, POTENTIALS = "certificate/circulation.parquet", "certificate/potentials.parquet"
NETTING = "netting.parquet"


def payments_of(seed: int, companies: int = 30, payments: int = 90, largest: int = 1000) -> pa.Table:
    """Draw payments between companies with Korean names: loops, chains and flows between components."""
    draw = np.random.default_rng(seed)
    names = np.array([f"회사 {company}" for company in range(companies)])
    payer, payee = draw.integers(0, companies, (2, payments))
    return pa.table(
        {"payer": names[payer], "payee": names[payee], "amount": draw.integers(1, largest, payments, endpoint=True)}
    )


def run(source: Any, out: Path, **settings: Any) -> dict[str, Any]:
    """Analyze with the circulation, verify, and return summary.json."""
    ouroflow.analyze(source, out=out, **{"measures": MEASURES, **settings})
    report = verify(out)
    assert report.ok, report.render()
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return summary


def expect_ordered(summary: dict[str, Any]) -> None:
    """RTF <= mu* <= min(nu, sigma) and beta <= mu*, at the stated amounts."""
    found = {key: figure["value"] for key, figure in summary.items() if isinstance(figure, dict) and "value" in figure}
    circulation = found["max_circulation_fraction"]
    smaller = max(found["round_trip_fraction"], found["bilateral_fraction"], found["finn_cycling_index"])
    larger = min(found["netting_fraction"], found["intra_component_fraction"])
    assert smaller <= circulation + 1e-12 and circulation <= larger + 1e-12


def by_ortools(flows: pa.Table) -> int:
    """Return the optimum of OR-tools' min-cost flow."""
    min_cost_flow = pytest.importorskip("ortools.graph.python.min_cost_flow")
    ends = pa.concat_arrays([*flows["payer"].chunks, *flows["payee"].chunks]).dictionary_encode()
    payer, payee = np.split(ends.indices.to_numpy(), 2)
    solver = min_cost_flow.SimpleMinCostFlow()
    solver.add_arcs_with_capacity_and_unit_cost(payer, payee, flows["amount"].to_numpy(), np.full(len(flows), -1))
    companies = len(ends.dictionary)
    solver.set_nodes_supplies(np.arange(companies), np.zeros(companies, np.int64))
    assert solver.solve() == solver.OPTIMAL
    return -int(solver.optimal_cost())


def digest_of(out: Path) -> str:
    digest: str = json.loads((out / "run.json").read_text(encoding="utf-8"))["digest"]
    return digest


# --- the answer and the files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "netted"), [("ai-deals", 101_280), ("ai-deals-annual", 650)])
def test_bundled_data_has_its_maximum_circulation_with_a_verified_certificate(
    name: str, netted: int, tmp_path: Path
) -> None:
    summary = run(name, tmp_path / "out")
    expect_ordered(summary)
    figure = summary["max_circulation_fraction"]
    total = summary["total"]
    decimals = json.loads((tmp_path / "out" / "run.json").read_text())["settings"]["decimals"]
    assert by_ortools(pq.read_table(tmp_path / "out" / "flows.parquet")) == netted * 10**decimals
    assert figure["low"] == figure["value"] == figure["high"] == float(Fraction(netted * 10**decimals, total))
    assert figure["method"].startswith("exact") and "at the stated amounts" in figure["method"]


def test_random_graphs_are_verified_and_their_measures_are_ordered(tmp_path: Path) -> None:
    for seed in range(25):
        companies = 3 + 2 * seed
        source = payments_of(seed, companies, companies * (1 + seed % 5), [1, 10, 10**13][seed % 3])
        out = tmp_path / str(seed)
        summary = run(source, out)
        expect_ordered(summary)
        flows = pq.read_table(out / "flows.parquet")
        expected = float(Fraction(by_ortools(flows), summary["total"])) if summary["total"] else 0
        assert summary["max_circulation_fraction"]["value"] == expected


def test_amounts_near_int64_are_verified_too(tmp_path: Path) -> None:
    most = (2**63 - 1) // 5
    names = ["가", "나", "다", "라"]
    source = pa.table(
        {
            "payer": [names[i] for i in (0, 1, 2, 0, 2)],
            "payee": [names[i] for i in (1, 2, 0, 2, 3)],
            "amount": [most - 3, most, most - 1, most - 7, most],
        }
    )
    summary = run(source, tmp_path / "out", decimals=0)
    assert summary["max_circulation_fraction"]["value"] == float(
        Fraction(by_ortools(pq.read_table(tmp_path / "out" / "flows.parquet")), summary["total"])
    )


def test_a_search_that_was_stopped_early_is_verified_with_its_interval(tmp_path: Path) -> None:
    widths = []
    for seed in range(8):
        analysis = ouroflow.analyze(payments_of(seed, 60, 300), measures=MEASURES)
        assert analysis.circulation is not None
        early = max_circulation(analysis.graph, analysis.components, tolerance=0.3)
        replace(analysis, circulation=early).save(tmp_path / str(seed))
        report = verify(tmp_path / str(seed))
        assert report.ok, report.render()
        widths.append(early.fraction.width)
        assert early.fraction.low <= analysis.circulation.fraction.value <= early.fraction.high
    assert max(widths) > 0, "none of them was stopped early"
    out = tmp_path / str(int(np.argmax(widths)))
    for part in ("low", "value", "high"):
        kept = (out / "summary.json").read_text()
        summary = json.loads(kept)
        summary["max_circulation_fraction"][part] *= 1 + (1e-9 if part == "low" else -1e-9)
        (out / "summary.json").write_text(json.dumps(summary))
        expect_found(out)
        (out / "summary.json").write_text(kept)


def test_no_loop_nets_nothing_and_one_balanced_ring_everything(tmp_path: Path) -> None:
    chain = pa.table({"payer": ["a", "b"], "payee": ["b", "c"], "amount": [5, 3]})
    ring = pa.table({"payer": ["a", "b", "c"], "payee": ["b", "c", "a"], "amount": [7, 7, 7]})
    assert run(chain, tmp_path / "chain")["max_circulation_fraction"]["value"] == 0
    assert pq.read_metadata(tmp_path / "chain" / NETTING).num_rows == 0
    assert run(ring, tmp_path / "ring")["max_circulation_fraction"]["value"] == 1
    assert pq.read_table(tmp_path / "ring" / NETTING)["remaining"].to_pylist() == [0, 0, 0]


def test_set_off_notices_relieve_every_company_of_what_it_gives_up(tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = run(payments_of(4), out)
    notices = pq.read_table(out / NETTING).to_pylist()
    given: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    for row in notices:
        assert 0 < row["netted"] <= row["amount"] and row["remaining"] == row["amount"] - row["netted"]
        given[row["payer"]] += row["netted"]
        taken[row["payee"]] += row["netted"]
    assert notices and given == taken
    netted = sum(row["netted"] for row in notices)
    assert summary["max_circulation_fraction"]["value"] == netted / summary["total"]
    components = pq.read_table(out / "components.parquet")
    assert sum(components["circulation_low"].to_pylist()) == netted
    assert components["circulation_low"] == components["circulation_high"]
    owed = {(row["payer"], row["payee"]): row["amount"] for row in pq.read_table(out / "flows.parquet").to_pylist()}
    assert all(owed[row["payer"], row["payee"]] == row["amount"] for row in notices)
    assert all("회사" in row["payer"] for row in notices)


def test_the_answer_states_the_share_the_totals_and_that_the_circulation_is_one_of_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "payments.csv"
    path.write_text("payer,payee,amount\n가,나,2000\n나,다,1000\n다,가,1000\n", encoding="utf-8")
    measures = ["--measures", ",".join(MEASURES)]
    assert main(["analyze", str(path), *measures, "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "75.0% of all that is paid (maximum circulation).  [exact" in printed.out
    assert "total before netting 4,000, after it 1,000" in printed.out and NETTING in printed.out
    assert "one of many optimal ones" in printed.out
    assert "ouroflow: circulation: exact" in printed.err
    stages = [stage["stage"] for stage in json.loads((tmp_path / "out" / "run.json").read_text())["stages"]]
    assert stages == ["ledger", "graph", "components", "roundtrip", "circulation", "report"]
    assert main(["analyze", str(path), *measures, "--quiet"]) == 0
    assert NETTING not in capsys.readouterr().out, "nothing was written"


def test_the_measure_can_be_had_without_round_trips(tmp_path: Path) -> None:
    summary = run(payments_of(1), tmp_path / "out", measures=["circulation"])
    assert summary["round_trip_fraction"] is None and summary["max_circulation_fraction"]["value"] > 0


def test_analysis_holds_the_circulation() -> None:
    analysis = ouroflow.analyze(payments_of(1), measures=MEASURES)
    assert analysis.circulation is not None
    assert analysis.circulation.fraction.as_dict() == analysis.summary()["max_circulation_fraction"]
    assert ouroflow.analyze(payments_of(1)).circulation is None, "it is computed only when asked for"
    with pytest.raises(UsageError, match="components, roundtrip, circulation"):
        ouroflow.analyze(payments_of(1), measures=["cycles"])


def test_a_run_without_the_measure_has_nulls_and_none_of_its_files(tmp_path: Path) -> None:
    ouroflow.analyze(payments_of(1), out=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["max_circulation_fraction"] is None
    components = pq.read_table(tmp_path / "out" / "components.parquet")
    assert components["circulation_low"].null_count == components["circulation_high"].null_count == len(components) > 0
    assert not any((tmp_path / "out" / name).exists() for name in CIRCULATION)
    report = verify(tmp_path / "out")
    assert report.ok and "did not measure it" in report.render()


def test_the_digest_holds_the_circulation_only_where_it_was_measured_and_does_not_see_the_order_of_rows(
    tmp_path: Path,
) -> None:
    source = payments_of(6, 60, 240)
    run(source, tmp_path / "with")
    ouroflow.analyze(source, out=tmp_path / "without")
    companies, flows, components = (
        pq.read_table(tmp_path / "with" / f"{name}.parquet") for name in ("companies", "flows", "components")
    )
    for end in ("circulation_low", "circulation_high"):
        at = components.column_names.index(end)
        components = components.set_column(at, end, pa.nulls(len(components), pa.float64()))
    assert (
        digest_of(tmp_path / "without") == result_digest(companies, flows, components) != digest_of(tmp_path / "with")
    )
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(source))
        run(source.take(order), tmp_path / f"permuted {seed}")
        assert digest_of(tmp_path / f"permuted {seed}") == digest_of(tmp_path / "with")


@pytest.mark.host
def test_a_graph_on_a_device_is_netted_on_the_cpu_and_the_run_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = payments_of(6, 60, 240)
    run(source, tmp_path / "gpu", device=HostAccelerator(), quiet=False)
    assert "maximum circulation is computed on the CPU" in capsys.readouterr().err
    run(source, tmp_path / "cpu", device="cpu")
    assert digest_of(tmp_path / "gpu") == digest_of(tmp_path / "cpu")


@pytest.mark.shared
def test_an_input_output_table_of_an_economy_has_its_value(tmp_path: Path, shared: Path) -> None:
    source = shared / "datasets" / "us_bea_io" / "bea_flows_2017.csv"
    summary = run(str(source), tmp_path / "out", amount="amount_usd_mn", decimals=0)
    expect_ordered(summary)
    netted = by_ortools(pq.read_table(tmp_path / "out" / "flows.parquet"))
    figure = summary["max_circulation_fraction"]
    assert figure["low"] == figure["value"] == figure["high"] == float(Fraction(netted, summary["total"]))
    assert (netted, summary["total"]) == (5_661_906, 13_443_465)


REAL = (
    "amlsim_20k/20K_cycle200_transactions.csv",
    "amlworld_hi_small_patterns/hi_small_patterns_flat.csv",
    "wiki_vote/wiki-Vote.txt",
    "soc_slashdot0902/soc-Slashdot0902.txt.gz",
)


@pytest.mark.shared
@pytest.mark.parametrize("file", REAL)
def test_measures_of_real_data_sets_are_ordered(file: str, tmp_path: Path, shared: Path) -> None:
    source = shared / "datasets" / file
    if file.startswith("amlworld"):  # two identities per end and a currency per row: plain columns of it will do here
        rows = pa.csv.read_csv(source)
        source = tmp_path / "flat.parquet"
        pq.write_table(
            pa.table({"payer": rows["from_account"], "payee": rows["to_account"], "amount": rows["amount_paid"]}),
            source,
        )
    expect_ordered(ouroflow.analyze(str(source), measures=MEASURES, tolerance=0.01, top=0).summary())


# --- verify finds what is wrong -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sound") / "out"
    run(payments_of(2, 40, 120), out)
    return out


@pytest.fixture
def out(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "out")
    return tmp_path / "out"


def column(out: Path, name: str, column: str) -> list[Any]:
    values: list[Any] = pq.read_table(out / name)[column].to_pylist()
    return values


def replace_column(out: Path, name: str, column: str, values: list[Any]) -> None:
    table = pq.read_table(out / name)
    at = table.column_names.index(column)
    field = table.schema.field(at)
    pq.write_table(table.set_column(at, field, pa.array(values, field.type)), out / name)


def change(out: Path, name: str, of: str, row: int, value: Any) -> None:
    values = column(out, name, of)
    values[row] = value(values[row]) if callable(value) else value
    replace_column(out, name, of, values)


def expect_found(out: Path, *checks: str) -> str:
    """Forge SHA-256 and digest after an alteration: the check must find it all the same, in words."""
    seal(out, digest=True)
    report = verify(out)
    assert {check.name for check in report.checks if not check.ok} == set(checks or ("circulation",)), report.render()
    assert "Error" not in report.render(), report.render()
    with pytest.raises(VerificationError):
        report.require()
    return report.render()


def row_where(out: Path, wanted: Callable[[dict[str, Any]], bool]) -> int:
    """Return the first flow, with its circulation, potential difference and component, that is as wanted."""
    potential = dict(zip(column(out, POTENTIALS, "company"), column(out, POTENTIALS, "potential"), strict=True))
    flows = pq.read_table(out / "flows.parquet").select(["amount", "component"]).to_pylist()
    rows = [a | b for a, b in zip(pq.read_table(out / FLOWS).to_pylist(), flows, strict=True)]
    for row in rows:
        row["reduced"] = 1 - potential[row["payer"]] + potential[row["payee"]]
        row["between"] = row["component"] is None
    return next(at for at, row in enumerate(rows) if wanted(row))


ALTERED_FLOWS: dict[str, tuple[Callable[[dict[str, Any]], bool], Callable[[int], int]]] = {
    "one unit more": (lambda row: not row["between"] and row["circulation"] < row["amount"], lambda c: c + 1),
    "one unit less": (lambda row: row["circulation"] > 0, lambda c: c - 1),
    "more than the flow": (lambda row: row["full"], lambda c: c + 1),
    "less than nothing": (lambda row: row["circulation"] == 0 and not row["between"], lambda c: c - 1),
    "between components": (lambda row: row["between"], lambda _: 1),
    "as large as int64": (lambda row: row["circulation"] > 0, lambda _: 2**63 - 1),
}


@pytest.mark.parametrize("kind", ALTERED_FLOWS)
def test_an_altered_circulation_of_a_flow_is_found(kind: str, out: Path) -> None:
    wanted, value = ALTERED_FLOWS[kind]
    change(out, FLOWS, "circulation", row_where(out, wanted), value)
    expect_found(out)


def test_a_smaller_circulation_that_is_feasible_and_stated_everywhere_is_found(out: Path) -> None:
    """All files agree that nothing can be netted; only the potentials know better, and no others exist."""
    replace_column(out, FLOWS, "circulation", [0] * len(column(out, FLOWS, "circulation")))
    pq.write_table(pq.read_table(out / NETTING).slice(0, 0), out / NETTING)
    for end in ("circulation_low", "circulation_high"):
        replace_column(out, "components.parquet", end, [0.0] * len(column(out, "components.parquet", end)))
    summary = json.loads((out / "summary.json").read_text())
    summary["max_circulation_fraction"] |= dict.fromkeys(("low", "value", "high"), 0.0)
    (out / "summary.json").write_text(json.dumps(summary))
    assert "circulation_high is 0.0" in expect_found(out)


def forge(out: Path, amounts: dict[tuple[str, str], int]) -> None:
    """State other amounts for some flows, in the circulation and in the notices alike."""
    for name, of in ((FLOWS, "circulation"), (NETTING, "netted")):
        rows = pq.read_table(out / name).to_pylist()
        replace_column(out, name, of, [amounts.get((row["payer"], row["payee"]), row[of]) for row in rows])
    notices = pq.read_table(out / NETTING).to_pylist()
    replace_column(out, NETTING, "remaining", [row["amount"] - row["netted"] for row in notices])


def test_a_unit_moved_to_another_flow_in_all_files_is_found_by_the_balance_of_companies(tmp_path: Path) -> None:
    """Value, bounds, flags and notices stay as they were: only what companies give and take does not."""
    source = pa.table(
        {"payer": ["a", "b", "a", "d", "c"], "payee": ["b", "c", "d", "c", "a"], "amount": [500, 500, 500, 500, 700]}
    )
    run(source, tmp_path / "out", decimals=0)
    rows = pq.read_table(tmp_path / "out" / FLOWS).to_pylist()
    netted = {(row["payer"], row["payee"]): row["circulation"] for row in rows}
    one, other = ("a", "b"), ("d", "c")
    by = 1 if netted[one] < 500 and netted[other] > 1 else -1
    forge(tmp_path / "out", {one: netted[one] + by, other: netted[other] - by})
    text = expect_found(tmp_path / "out")
    assert "company 'a' takes 700 in the circulation" in text


def test_more_than_is_owed_netted_in_all_files_is_found(tmp_path: Path) -> None:
    """Balanced for every company, and as large as before: a claim is overdrawn at the cost of another one."""
    source = pa.table(
        {"payer": ["가", "나", "나", "다"], "payee": ["나", "가", "다", "나"], "amount": [50, 50, 50, 50]}
    )
    run(source, tmp_path / "out", decimals=0)
    more, less = dict.fromkeys([("가", "나"), ("나", "가")], 51), dict.fromkeys([("나", "다"), ("다", "나")], 49)
    forge(tmp_path / "out", more | less)
    replace_column(tmp_path / "out", FLOWS, "full", [False] * 4)
    assert "circulation is 51, expected 0 to 50" in expect_found(tmp_path / "out")


@pytest.mark.parametrize("key", ["round_trip_fraction", "finn_cycling_index"])
def test_more_that_comes_back_than_could_be_netted_is_found(key: str, out: Path) -> None:
    summary = json.loads((out / "summary.json").read_text())
    netted = summary["max_circulation_fraction"]["value"]
    summary[key] |= dict.fromkeys(("low", "value", "high"), netted + 1e-6)
    (out / "summary.json").write_text(json.dumps(summary))
    seal(out, digest=True)
    checks = {check.name for check in verify(out).checks if not check.ok}
    assert checks >= ({"circulation", "round trips"} if key == "round_trip_fraction" else {"round trips"})


def busiest(out: Path) -> int:
    """Return the row in potentials.parquet of the company that nets most."""
    netted: Counter[str] = Counter()
    for row in pq.read_table(out / NETTING).to_pylist():
        netted[row["payer"]] += row["netted"]
    return column(out, POTENTIALS, "company").index(netted.most_common(1)[0][0])


@pytest.mark.parametrize("by", [1000, -1000, 2**60, -(2**60)])
def test_altered_potentials_are_found(by: int, out: Path) -> None:
    change(out, POTENTIALS, "potential", busiest(out), lambda potential: potential + by)
    expect_found(out)


@pytest.mark.parametrize("value", [2**61, -(2**61), 2**63 - 1, -(2**63)])
def test_potentials_that_no_integer_could_hold_are_refused(value: int, out: Path) -> None:
    change(out, POTENTIALS, "potential", busiest(out), value)
    assert "2^61 or more" in expect_found(out)


def test_any_flag_altered_is_found(out: Path) -> None:
    kept = (out / FLOWS).read_bytes()
    for flag in ("full", "empty"):
        for row in range(0, len(column(out, FLOWS, flag)), 5):
            change(out, FLOWS, flag, row, lambda stated: not stated)
            expect_found(out)
            (out / FLOWS).write_bytes(kept)


def test_flags_follow_from_all_optimal_circulations(tmp_path: Path) -> None:
    """Two ways round, a -> b -> c -> a and a -> d -> c -> a, share a neck: only the neck is the same in every optimum."""
    source = pa.table(
        {"payer": ["a", "b", "a", "d", "c"], "payee": ["b", "c", "d", "c", "a"], "amount": [5, 5, 5, 5, 7]}
    )
    run(source, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / FLOWS).to_pylist()
    assert [(row["payer"], row["payee"]) for row in rows if row["full"]] == [("c", "a")]
    assert not any(row["empty"] for row in rows)


@pytest.mark.parametrize("of", ["amount", "netted", "remaining"])
def test_an_altered_notice_is_found(of: str, out: Path) -> None:
    change(out, NETTING, of, 0, lambda money: money + 1)
    expect_found(out)


@pytest.mark.parametrize("name", CIRCULATION)
def test_rows_left_out_doubled_or_of_nobody_are_found(name: str, out: Path) -> None:
    table = pq.read_table(out / name)
    swapped = table.rename_columns([{"payer": "payee", "payee": "payer"}.get(c, c) for c in table.column_names])
    first = table.column_names[0]
    stranger = table.set_column(0, first, pa.array(["아무도", *table[first].to_pylist()[1:]]))
    for wrong in (table.slice(1), pa.concat_tables([table, table.slice(0, 1)]), table.slice(0, 0), swapped):
        if wrong.equals(table):
            continue  # potentials have no payer and payee to swap
        pq.write_table(wrong, out / name)
        expect_found(out)
    pq.write_table(stranger, out / name)
    seal(out, digest=True)
    assert "아무도" in verify(out).render() and not verify(out).ok


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("name", CIRCULATION)
def test_a_missing_file_is_found(name: str, listed: bool, out: Path) -> None:
    (out / name).unlink()
    if not listed:
        content = json.loads((out / "run.json").read_text())
        del content["tables"][name]
        (out / "run.json").write_text(json.dumps(content))
        seal(out, digest=True)
    report = verify(out)
    assert not report.ok and name in report.render() and "Error" not in report.render()


def test_a_run_that_was_asked_for_the_measure_and_has_nothing_of_it_is_found(out: Path) -> None:
    content = json.loads((out / "run.json").read_text())
    for name in CIRCULATION:
        (out / name).unlink()
        del content["tables"][name]
    (out / "run.json").write_text(json.dumps(content))
    summary = json.loads((out / "summary.json").read_text())
    (out / "summary.json").write_text(json.dumps(summary | {"max_circulation_fraction": None}))
    seal(out, digest=True)
    report = verify(out)
    assert not report.ok and "does not list netting.parquet" in report.render()


@pytest.mark.parametrize("part", ["low", "value", "high"])
@pytest.mark.parametrize("by", [1e-15, 1e-6, -1e-6])
def test_an_altered_figure_of_the_whole_is_found(part: str, by: float, out: Path) -> None:
    summary = json.loads((out / "summary.json").read_text())
    summary["max_circulation_fraction"][part] *= 1 + by
    (out / "summary.json").write_text(json.dumps(summary))
    expect_found(out)


@pytest.mark.parametrize("figure", [None, "x", {}, 0.5, {"value": float("nan")}])
def test_a_figure_that_is_none_is_found(figure: Any, out: Path) -> None:
    summary = json.loads((out / "summary.json").read_text())
    (out / "summary.json").write_text(json.dumps(summary | {"max_circulation_fraction": figure}))
    expect_found(out)


@pytest.mark.parametrize("end", ["circulation_low", "circulation_high"])
@pytest.mark.parametrize("value", [None, lambda money: money + 1, lambda money: money * (1 - 1e-15)])
def test_an_altered_bound_of_a_component_is_found(end: str, value: Any, out: Path) -> None:
    change(out, "components.parquet", end, 0, value)
    expect_found(out)


def test_figures_of_a_measure_that_was_not_asked_for_are_found(tmp_path: Path) -> None:
    out = tmp_path / "out"
    ouroflow.analyze(payments_of(2), out=out)
    change(out, "components.parquet", "circulation_low", 0, 1.0)
    expect_found(out)
    change(out, "components.parquet", "circulation_low", 0, None)
    summary = json.loads((out / "summary.json").read_text())
    figure = {"value": 0.1, "low": 0.1, "high": 0.1, "method": "exact"}
    (out / "summary.json").write_text(json.dumps(summary | {"max_circulation_fraction": figure}))
    expect_found(out)


def test_a_figure_that_hides_that_ranges_are_not_followed_is_found(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("ai-deals", out)
    summary = json.loads((out / "summary.json").read_text())
    summary["max_circulation_fraction"]["method"] = "exact"
    (out / "summary.json").write_text(json.dumps(summary))
    assert "does not say that it is at the stated amounts" in expect_found(out)
