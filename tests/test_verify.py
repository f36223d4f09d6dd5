"""``ouroflow verify``: what is right passes, and any number altered is found."""

from __future__ import annotations

import ast
import hashlib
import json
import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

import ouroflow
import ouroflow.verify
import ouroflow.verify.recompute as recompute
from ouroflow.cli import main
from ouroflow.digest import result_digest
from ouroflow.errors import UsageError, VerificationError
from ouroflow.verify import VerifyReport, verify
from ouroflow.verify.findings import Findings
from ouroflow.verify.ranges import FRACTIONS
from ouroflow.verify.ranges import _World as World
from ouroflow.verify.stored import Stored, check_files, check_tables
from outfolder import RANGES, TABLES, hitting_probabilities, random_payments, seal, tables_of, write_out

# Two loops, a chain into and out of them, an isolated balanced ring and a company that pays itself.
PAYER = [0, 1, 2, 0, 2, 3, 4, 3, 5, 6, 7, 8, 9, 9, 9]
PAYEE = [1, 2, 0, 2, 3, 4, 3, 5, 6, 7, 8, 6, 9, 0, 0]
AMOUNT = [500, 400, 300, 70, 90, 800, 650, 40, 40, 40, 40, 40, 11, 13, 17]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_out(tmp_path_factory.mktemp("sound") / "out", PAYER, PAYEE, AMOUNT)


@pytest.fixture
def out(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "out")
    return tmp_path / "out"


def failed(report: VerifyReport) -> set[str]:
    return {check.name for check in report.checks if not check.ok}


def expect_found(out: Path, what: str) -> set[str]:
    report = verify(out)
    assert not report.ok, f"not found: {what}"
    assert "Error" not in report.render(), f"{what}: {report.render()}"
    with pytest.raises(VerificationError) as error:
        report.require()
    assert error.value.exit_code == 6
    return failed(report)


def test_nothing_of_the_engine_is_used() -> None:
    allowed = {"numpy", "scipy", "pyarrow", *sys.stdlib_module_names}
    own = ("ouroflow.verify", "ouroflow.errors", "ouroflow.digest")
    root = Path(ouroflow.verify.__file__).parent
    for file in [*root.glob("*.py"), root.parent / "digest.py", root.parent / "errors.py"]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [str(node.module)]
            for name in names:
                assert name.split(".")[0] in allowed or name.startswith(own), f"{file.name} imports {name}"


@given(st.integers(0, 10_000), st.integers(1, 14), st.integers(0, 60), st.sampled_from([None, 2, 3, 5]), st.booleans())
@examples(max_examples=60)
def test_what_the_oracle_writes_is_verified(
    seed: int, companies: int, payments: int, hops: int | None, text: bool
) -> None:
    names = [f"회사 {c}" for c in range(companies)] if text else None
    with TemporaryDirectory() as folder:
        drawn = random_payments(seed, companies, payments)
        out = write_out(Path(folder) / "out", *drawn, companies=companies, names=names, hops=hops)
        report = verify(out)
        assert report.ok, report.render()
        report.require()


@pytest.mark.parametrize("variant", ["intervals", "sampled", "components only", "external", "empty", "huge amounts"])
def test_other_kinds_of_runs_are_verified(variant: str, tmp_path: Path) -> None:
    payments = random_payments(3, 9, 40, 10**17 if variant == "huge amounts" else 1000)
    options: dict[str, Any] = {
        "intervals": {"half_width": 1e-2},
        "sampled": {"half_width": 1e-2},
        "components only": {"measured": False},
        "external": {"external": ([0, 900, 0] * 3, [5, 0, 50_000] * 3)},
    }.get(variant, {})
    out = write_out(tmp_path / "out", *(([], [], []) if variant == "empty" else payments), **options)
    if variant == "sampled":
        edit_json(out, "summary.json", ("round_trip_fraction", "method"), "walks, 99% confidence")
        seal(out)
    report = verify(out)
    assert report.ok, report.render()


def numeric_columns(out: Path) -> Iterator[tuple[str, str]]:
    for name in tables_of(out):
        for field in pq.read_schema(out / name):
            if pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
                yield name, field.name


def alter(out: Path, name: str, column: str, row: int, relative: float) -> bool:
    """Alter one number of a table; False where there is none at that row."""
    table = pq.read_table(out / name)
    values = table[column].to_pylist()
    if row >= len(values) or values[row] is None:
        return False
    values[row] = values[row] + 1 if isinstance(values[row], int) else (values[row] or 1e-3) * (1 + relative)
    at = table.column_names.index(column)
    pq.write_table(
        table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type)), out / name
    )
    return True


def test_any_number_altered_in_any_table_is_found(out: Path) -> None:
    altered = 0
    for name, column in numeric_columns(out):
        for row in range(pq.read_metadata(out / name).num_rows):
            for relative in (1e-6, -1e-6, 1e-12):
                kept, run = (out / name).read_bytes(), (out / "run.json").read_bytes()
                if not alter(out, name, column, row, relative):
                    continue
                altered += 1
                what = f"{name} {column} row {row} by {relative}"
                assert "files" in expect_found(out, what)
                # With the SHA-256 forged as well, the figures themselves give it away; and not by the digest alone.
                seal(out)
                checks = expect_found(out, f"{what}, SHA-256 forged")
                assert "files" not in checks
                assert checks - {"digest"}, what
                (out / name).write_bytes(kept)
                (out / "run.json").write_bytes(run)
    assert altered > 500
    assert verify(out).ok


def test_any_bound_altered_is_found_by_the_digest_at_least(tmp_path: Path) -> None:
    out = write_out(tmp_path / "out", PAYER, PAYEE, AMOUNT, half_width=1e-3)
    assert verify(out).ok
    for name, column in numeric_columns(out):
        for row in range(0, pq.read_metadata(out / name).num_rows, 2):
            for relative in (1e-6, 1e-12):
                kept, run = (out / name).read_bytes(), (out / "run.json").read_bytes()
                if alter(out, name, column, row, relative):
                    seal(out)
                    expect_found(out, f"{name} {column} row {row} by {relative}")
                    (out / name).write_bytes(kept)
                    (out / "run.json").write_bytes(run)


def edit_json(out: Path, name: str, path: tuple[str, ...], value: Any) -> None:
    content = json.loads((out / name).read_text())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (out / name).write_text(json.dumps(content))


def numbers(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from numbers(value, (*path, key))
    elif isinstance(content, int | float):
        yield path, content


@pytest.mark.parametrize("name", ["summary.json", "run.json"])
def test_any_number_altered_in_the_json_files_is_found(name: str, out: Path) -> None:
    kept, run = (out / name).read_bytes(), (out / "run.json").read_bytes()
    content = json.loads(kept)
    places = list(numbers(content if name == "summary.json" else {"rows": content["rows"]}))
    assert len(places) >= 5
    for path, value in places:
        for relative in (1e-6, -1e-6, 1e-12):
            edit_json(out, name, path, value + 1 if isinstance(value, int) else value * (1 + relative))
            if name == "summary.json":
                assert "files" in expect_found(out, f"{path}")
                seal(out)
            checks = expect_found(out, f"{path} by {relative}")
            assert checks - {"files"}
            (out / name).write_bytes(kept)
            (out / "run.json").write_bytes(run)


SOME_RANGES = {
    (0, 1): (0, 900),
    (2, 0): (1, 300),
    (3, 4): (500, 1000),
    (4, 3): (100, 790),
    (2, 3): (0, 91),
    (6, 7): (39, 41),
}


@pytest.fixture(scope="module")
def ranged_sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_out(tmp_path_factory.mktemp("ranged") / "out", PAYER, PAYEE, AMOUNT, ranges=SOME_RANGES)


@pytest.fixture
def ranged(ranged_sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(ranged_sound, tmp_path / "ranged")
    return tmp_path / "ranged"


def test_any_number_altered_in_a_run_over_ranges_is_found(ranged: Path) -> None:
    assert verify(ranged).ok, verify(ranged).render()
    for name, column in numeric_columns(ranged):
        for row in range(0, pq.read_metadata(ranged / name).num_rows, 1 if name == RANGES else 3):
            for relative in (1e-6, -1e-6, 1e-12):
                kept, run = (ranged / name).read_bytes(), (ranged / "run.json").read_bytes()
                if alter(ranged, name, column, row, relative):
                    what = f"{name} {column} row {row} by {relative}"
                    seal(ranged)
                    checks = expect_found(ranged, what)
                    # The bounds, and what is stated about ranges, are held by the digest; all else by computing again.
                    bound = name == RANGES or column.endswith(("_low", "_high"))
                    assert bound or checks - {"digest"}, what
                    (ranged / name).write_bytes(kept)
                    (ranged / "run.json").write_bytes(run)
    assert verify(ranged).ok


@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize("key", FRACTIONS)
def test_an_interval_that_does_not_hold_over_the_ranges_is_found(key: str, end: str, ranged: Path) -> None:
    """With SHA-256 and digest forged: an end that stands next to the value is passed somewhere."""
    value = json.loads((ranged / "summary.json").read_text())[key]["value"]
    edit_json(ranged, "summary.json", (key, end), value)
    seal(ranged, digest=True)
    assert expect_found(ranged, f"{key} {end}") == {"ranges"}


@pytest.mark.parametrize("column", ["round_trip", "return_fraction", "self_funded_fraction"])
def test_an_interval_of_a_company_that_does_not_hold_over_the_ranges_is_found(column: str, ranged: Path) -> None:
    table = pq.read_table(ranged / "companies.parquet")
    for end in ("_low", "_high"):
        at = table.column_names.index(column + end)
        pq.write_table(table.set_column(at, column + end, table[column]), ranged / "companies.parquet")
        seal(ranged, digest=True)
        assert expect_found(ranged, column + end) == {"ranges"}


@pytest.mark.parametrize(
    ("column", "value"),
    [("low", 600), ("high", 400), ("low", -1), ("attained_low", 901), ("attained_high", -5), ("high", 2**63 - 1)],
)
def test_ranges_that_make_no_sense_are_found(column: str, value: int, ranged: Path) -> None:
    table = pq.read_table(ranged / RANGES)
    values = [value, *table[column].to_pylist()[1:]]
    at = table.column_names.index(column)
    pq.write_table(table.set_column(at, column, pa.array(values, pa.int64())), ranged / RANGES)
    seal(ranged, digest=True)
    assert "ranges" in expect_found(ranged, f"{column} {value}")


def test_ranges_of_no_flow_or_twice_or_left_out_are_found(ranged: Path) -> None:
    table = pq.read_table(ranged / RANGES)
    swapped = table.rename_columns(["payee", "payer", *table.column_names[2:]])
    for wrong in (swapped, pa.concat_tables([table, table.slice(0, 1)]), table.slice(0, 0)):
        pq.write_table(wrong, ranged / RANGES)
        seal(ranged, digest=True)
        assert "ranges" in expect_found(ranged, "ranges")
    (ranged / RANGES).unlink()
    run = json.loads((ranged / "run.json").read_text())
    del run["tables"][RANGES]
    (ranged / "run.json").write_text(json.dumps(run))
    assert "brackets" in expect_found(ranged, "ranges not listed")


@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(1, 30))
@examples(max_examples=40)
def test_figures_at_other_amounts_are_those_of_a_run_at_those_amounts(seed: int, companies: int, payments: int) -> None:
    """The dense code of the ranges check against the oracle, flows that vanish and falling components included."""
    payer, payee, amount = random_payments(seed, companies, payments)
    draw = np.random.default_rng(seed)
    weights: dict[tuple[int, int], int] = {}
    for i, j, money in zip(payer, payee, amount, strict=True):
        if i != j:
            weights[i, j] = weights.get((i, j), 0) + money
    ranges = {flow: (0, money + 50) for flow, money in weights.items() if draw.random() < 0.6}
    if not ranges:
        return
    with TemporaryDirectory() as folder:
        out = write_out(Path(folder) / "out", payer, payee, amount, companies=companies, ranges=ranges)
        report = verify(out)
        assert report.ok, report.render()
        stored = Stored(out)
        for check in (check_files, check_tables):
            check(stored, Findings())
        flows = list(zip(stored.payer.tolist(), stored.payee.tolist(), strict=True))
        world = World.of(stored, np.array([flows.index(flow) for flow in ranges]))
        most = np.array([high for _, high in ranges.values()])
        chosen = np.array([draw.integers(0, most + 1) * draw.integers(0, 2, len(most)) for _ in range(5)])
        fractions, money, returned, funded = world.figures(chosen)
        for choice, amounts in enumerate(chosen):
            moved = weights | dict(zip(ranges, map(int, amounts), strict=True))
            paying = [(i, j, money) for (i, j), money in moved.items() if money]
            if not paying:
                assert np.isnan(fractions[choice][[0, 2, 3, 4]]).all()
                continue
            other = write_out(Path(folder) / f"{choice}", *map(list, zip(*paying, strict=True)), companies=companies)
            summary = json.loads((other / "summary.json").read_text())
            expected = [summary[key]["value"] for key in FRACTIONS]
            assert fractions[choice] == pytest.approx(expected, rel=1e-9, abs=1e-12)
            table = pq.read_table(other / "companies.parquet").take(world.members)
            for found, column in (
                (money, "round_trip"),
                (returned, "return_fraction"),
                (funded, "self_funded_fraction"),
            ):
                stated = [math.nan if part is None else part for part in table[column].to_pylist()]
                assert found[choice] == pytest.approx(stated, rel=1e-9, abs=1e-9, nan_ok=True)


@pytest.fixture(scope="module")
def ai_deals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ai-deals") / "out"
    ouroflow.analyze("ai-deals", out=out)
    return out


def test_a_real_run_is_verified_and_altered_numbers_end_with_exit_code_6(
    ai_deals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(ai_deals)]) == 0
    assert "choices of amounts" in capsys.readouterr().out
    for at, (name, column) in enumerate(numeric_columns(ai_deals)):
        out = tmp_path / f"{at}"
        shutil.copytree(ai_deals, out)
        altered = next((row for row in range(5) if alter(out, name, column, row, 1e-6)), None)
        if altered is None:
            continue
        assert main(["verify", str(out)]) == 6
        text = capsys.readouterr().out
        assert "NOT VERIFIED" in text
        assert name in text
    for key in FRACTIONS:
        for end in ("low", "value", "high"):
            out = tmp_path / f"{key} {end}"
            shutil.copytree(ai_deals, out)
            stated = json.loads((out / "summary.json").read_text())[key][end]
            edit_json(out, "summary.json", (key, end), stated * (1 - 1e-6))
            assert main(["verify", str(out)]) == 6


def test_a_real_interval_cut_a_little_inside_of_what_was_attained_is_found(ai_deals: Path, tmp_path: Path) -> None:
    """The scenarios of the search stand in the files: no forged hash helps an interval that leaves them out."""
    for end, part in (("low", 0.75), ("high", 0.75)):
        out = tmp_path / end
        shutil.copytree(ai_deals, out)
        figure = json.loads((out / "summary.json").read_text())["round_trip_fraction"]
        cut = figure["value"] + part * (figure[end] - figure["value"])
        edit_json(out, "summary.json", ("round_trip_fraction", end), cut)
        seal(out, digest=True)
        assert expect_found(out, f"round_trip_fraction {end} cut") == {"ranges"}


def test_consistent_lies_are_found_by_computing_again(tmp_path: Path) -> None:
    """All figures of a company scaled alike agree with each other, but not with the flows."""
    honest = hitting_probabilities

    def lying(*arguments: Any) -> np.ndarray:
        hits = honest(*arguments)
        hits[1, 0] *= 1 - 1e-6
        return hits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("outfolder.hitting_probabilities", lying)
        out = write_out(tmp_path / "out", PAYER, PAYEE, AMOUNT)
    for limit in (3_000, 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(recompute, "DENSE_LIMIT", limit)
            assert expect_found(out, "lie") == {"recomputed"}


def test_a_component_cut_in_two_or_two_joined_is_found(tmp_path: Path) -> None:
    """Labels, sizes, tables and certificates of another graph with the same companies cannot be made to fit."""
    out = write_out(tmp_path / "ring", [0, 1, 2, 3], [1, 2, 3, 0], [5, 5, 5, 5])
    chain = write_out(tmp_path / "chain", [0, 1, 2], [1, 2, 3], [5, 5, 5])
    for victim, donor in ((out, chain), (chain, out)):
        forged = tmp_path / f"forged {victim.name}"
        shutil.copytree(victim, forged)
        for name in TABLES[2:]:
            shutil.copy(donor / name, forged / name)
        table = pq.read_table(forged / "companies.parquet")
        labels = pq.read_table(donor / "companies.parquet")["component"]
        table = table.set_column(table.column_names.index("component"), "component", labels)
        pq.write_table(table, forged / "companies.parquet")
        seal(forged, digest=True)
        assert "components" in expect_found(forged, "forged components")


@pytest.mark.parametrize("hops", [None, 4])
def test_large_components_are_checked_on_a_sample_and_by_walks(
    hops: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recompute, "DENSE_LIMIT", 5)
    monkeypatch.setattr(recompute, "WALKS", 20_000)
    out = write_out(tmp_path / "out", *random_payments(7, 40, 200), hops=hops)
    report = verify(out)
    assert report.ok, report.render()
    assert "sample of" in report.render()
    assert "20,000 own walks" in report.render()


@pytest.mark.parametrize("seed", range(20))
def test_walks_agree_with_the_truth_and_not_with_a_lie(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recompute, "DENSE_LIMIT", 1)
    monkeypatch.setattr(recompute, "PANEL_ROOTS", 2)
    out = write_out(tmp_path / "out", *random_payments(seed, 12, 60))
    assert "walks" not in failed(verify(out))
    table = pq.read_table(out / "companies.parquet")
    for column in ("round_trip_low", "round_trip", "round_trip_high"):
        table = table.set_column(table.column_names.index(column), column, pa.array(table[column].to_numpy() * 0.9))
    pq.write_table(table, out / "companies.parquet")
    report = verify(out)
    assert "round trips" in failed(report)


def test_recomputed_hitting_probabilities_keep_their_accuracy_when_next_to_nothing_leaks() -> None:
    """A ring of big amounts that leaks one unit: h from j to i is 1 minus the odds of leaking first, of order 1e-15."""
    paid = np.zeros((1, 3, 3))
    paid[0, 0, 1] = paid[0, 1, 2] = paid[0, 2, 0] = 1e15
    hits = recompute.hitting(paid, np.array([[1, 0, 0]]))
    assert hits[0, 1, 0] == pytest.approx(1, rel=4e-16)
    assert hits[0, 0, 1] == pytest.approx(1 - 1e-15, rel=4e-16)
    # From what leaks nearly all, the little that is left is known to every digit.
    paid = np.array([[[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]])
    hits = recompute.hitting(paid, np.full((1, 3), 10**12))
    assert hits[0, 1, 0] == pytest.approx((1 / (10**12 + 1)) ** 2, rel=1e-15)
    assert (recompute.hitting(paid, np.zeros((1, 3), np.int64)) == 1).all()


def test_damaged_files_are_findings_in_words(sound: Path, tmp_path: Path) -> None:
    damages = (b"", b"PAR1", b"{", b"[]", b"null", b"\xff\xfe", b"{}")
    for number, name in enumerate([*TABLES, "summary.json", "run.json"]):
        for kind, damage in enumerate((*damages, None)):
            out = tmp_path / f"{number}-{kind}"
            shutil.copytree(sound, out)
            (out / name).unlink()
            if damage is not None:
                (out / name).write_bytes(damage)
            checks = expect_found(out, f"{name} {damage!r}")
            assert checks & {"files", "tables"}


def test_missing_and_strange_columns_are_findings_in_words(out: Path) -> None:
    for name in TABLES:
        whole = pq.read_table(out / name)
        kept = (out / name).read_bytes()
        for at, column in enumerate(whole.column_names):
            rows = whole.num_rows
            for strange in (None, pa.array(["x"] * rows), pa.array([1.5] * rows), pa.nulls(rows, whole[column].type)):
                table = whole.drop_columns(column) if strange is None else whole.set_column(at, column, strange)
                if table.equals(whole):
                    continue
                pq.write_table(table, out / name)
                seal(out)
                expect_found(out, f"{name} {column}")
        pq.write_table(whole.slice(0, max(0, whole.num_rows - 1)), out / name)
        seal(out)
        expect_found(out, f"{name} without its last row")
        pq.write_table(pa.concat_tables([whole, whole.slice(0, 1)]), out / name)
        seal(out)
        expect_found(out, f"{name} with its first row twice")
        (out / name).write_bytes(kept)
        seal(out)
    assert verify(out).ok


@pytest.mark.parametrize("value", [None, "x", -1, 1.5, [], {}, True, float("nan"), 10**30])
def test_nonsense_in_the_json_files_is_a_finding(value: Any, out: Path) -> None:
    for name in ("summary.json", "run.json"):
        kept = (out / name).read_bytes()
        for key in json.loads(kept):
            if key in ("max_circulation_fraction", "cycles", "settings"):
                continue
            edit_json(out, name, (key,), value)
            if name == "summary.json":
                seal(out)
            report = verify(out)
            assert not report.ok, f"{name} {key} = {value!r}"
            (out / name).write_bytes(kept)
        seal(out)


def test_a_listed_file_outside_of_the_folder_is_refused(out: Path) -> None:
    edit_json(out, "run.json", ("tables", "../secret"), "0")
    report = verify(out)
    assert "points out of the folder" in report.render()


def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a folder"):
        verify(tmp_path / "none")


def test_hostile_names_in_findings_cannot_drive_the_terminal(tmp_path: Path) -> None:
    names = ["\x1b[2Jevil\u202e\n", "b", "c"]
    out = write_out(tmp_path / "out", [0, 1, 2], [1, 2, 0], [5, 5, 5], names=names)
    assert verify(out).ok
    alter(out, "companies.parquet", "paid", 0, 0)
    text = verify(out).render()
    assert "evil" in text
    assert not set(text) & {"\x1b", "\u202e"}


def tables(out: Path) -> list[pa.Table]:
    return [pq.read_table(out / name) for name in TABLES[:3]]


def test_the_digest_does_not_depend_on_order_chunks_or_encoding(tmp_path: Path) -> None:
    names = [f"{'long ' * c}회사 {c}" for c in range(60)]
    out = write_out(tmp_path / "out", *random_payments(11, 60, 300), names=names)
    plain = tables(out)
    digest = result_digest(*plain)
    draw = np.random.default_rng(0)
    mixed = []
    for table in plain:
        shuffled = table.take(draw.permutation(table.num_rows))
        mixed.append(pa.concat_tables([shuffled.slice(0, 3), shuffled.slice(3)]))
    assert result_digest(*mixed) == digest
    for column in ("payer", "payee"):
        at = mixed[1].column_names.index(column)
        mixed[1] = mixed[1].set_column(at, column, mixed[1][column].dictionary_encode())
    mixed[0] = mixed[0].set_column(0, "company", mixed[0]["company"].cast(pa.large_string()))
    assert result_digest(*mixed) == digest
    pq.write_table(mixed[0], tmp_path / "other.parquet", compression="none", row_group_size=7, use_dictionary=False)
    assert result_digest(pq.read_table(tmp_path / "other.parquet"), *mixed[1:]) == digest


def test_the_digest_forgives_rounding_and_nothing_else(out: Path) -> None:
    plain = tables(out)
    digest = result_digest(*plain)

    def changed(table: int, column: str, values: Any) -> str:
        copy = list(plain)
        at = copy[table].column_names.index(column)
        copy[table] = copy[table].set_column(at, column, pa.array(values, copy[table].schema.field(at).type))
        return result_digest(*copy)

    nudged = plain[1]["return_fraction"].to_numpy() * (1 + 1e-15)
    assert changed(1, "return_fraction", nudged) == digest
    assert changed(1, "return_fraction", nudged + 1e-6) != digest
    assert changed(1, "amount", plain[1]["amount"].to_numpy() + 1) != digest
    assert changed(0, "company", plain[0]["company"].to_numpy() + 1) != digest
    assert changed(0, "round_trip_low", plain[0]["round_trip_low"].to_numpy() * (1 - 1e-12)) != digest
    assert changed(2, "circulation_low", np.ones(plain[2].num_rows)) != digest


def test_the_digest_tells_identities_apart(out: Path) -> None:
    companies, flows, components = tables(out)

    def digest(names: list[Any]) -> str:
        return result_digest(
            companies.slice(0, len(names)).set_column(0, "company", pa.array(names)), flows, components
        )

    lists: list[list[Any]] = [["1"], [1], ["1\0"], [""], ["\0"], ["a" * 8], ["a" * 9], ["a" * 8 + "\0"]]
    lists += [["ab", "c"], ["a", "bc"], ["1", "1"], ["x" * 256], ["x" * 257], ["x" * 300], ["y" * 300]]
    assert len({digest(names) for names in lists}) == len(lists)


def specified_digest(companies: pa.Table, flows: pa.Table, components: pa.Table) -> str:
    """Compute the digest as the module's docstring says, one Python integer at a time."""
    word = 2**64

    def mix(z: int) -> int:
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % word
        z = (z ^ z >> 27) * 0x94D049BB133111EB % word
        return z ^ z >> 31

    def absorb(h: int, w: int) -> int:
        return mix(((h ^ w % word) + 0x9E3779B97F4A7C15) % word)

    def identity(name: Any) -> int:
        if isinstance(name, int):
            return absorb(0xBE5466CF34E90C6C, name)
        text = name.encode()
        h = absorb(0xC0AC29B7C97C50DD, len(text))
        text = hashlib.sha256(text).digest() if len(text) > 256 else text
        for at in range(0, len(text), 8):
            h = absorb(h, int.from_bytes(text[at : at + 8], "little"))
        return h

    shift = (3 - math.sqrt(5)) / 2

    def fraction(x: float) -> int:
        return math.floor(x * 10**6 + shift)

    def relative(x: float) -> int:
        m, e = math.frexp(x)
        q = math.floor(m * 2**42 + shift)
        q, e = (2**41, e + 1) if q == 2**42 else (q, e)
        return q + (e + 2048) * 2**48

    keys: dict[int, int] = {}
    for row in companies.to_pylist():
        keys[row["component"]] = (keys.get(row["component"], 0) + mix(identity(row["company"]))) % word

    def words(name: str, row: dict[str, Any]) -> Iterator[int]:
        exact = name == "companies" and row["round_trip_low"] == row["round_trip"] == row["round_trip_high"]
        for column in {
            "companies": "company paid received component external_in external_out round_trip "
            "round_trip_low round_trip_high",
            "flows": "payer payee amount payments component return_fraction",
            "components": "component companies flows amount circulation_low circulation_high",
        }[name].split():
            value = row[column]
            if value is None:
                yield 0xA4093822299F31D0
            elif column == "component":
                yield keys[value]
            elif column in ("company", "payer", "payee"):
                yield identity(value)
            elif column in ("round_trip", "return_fraction"):
                yield fraction(value / max(row["paid"], 1) if name == "companies" else value)
            elif column.endswith(("_low", "_high")):
                yield 0x452821E638D01377 if exact else relative(value)
            else:
                yield value

    text = "ouroflow-result-1\n"
    for name, table in (("companies", companies), ("flows", flows), ("components", components)):
        sums = [0, 0]
        for row in table.to_pylist():
            h = 0
            for w in words(name, row):
                h = absorb(h, w)
            sums = [(old + mix(h ^ lane)) % word for old, lane in zip(sums, LANES, strict=True)]
        text += f"{name} {table.num_rows} {sums[0]:016x} {sums[1]:016x}\n"
    return hashlib.sha256(text.encode()).hexdigest()


LANES = (0x243F6A8885A308D3, 0x13198A2E03707344)


@pytest.mark.parametrize("kind", ["text", "integers", "intervals", "components only"])
def test_the_digest_is_the_specified_one(kind: str, tmp_path: Path) -> None:
    names = None if kind == "integers" else [f"회사 {'x' * 37 * c}" for c in range(12)]
    options: dict[str, Any] = {"intervals": {"half_width": 1e-3}, "components only": {"measured": False}}.get(kind, {})
    out = write_out(tmp_path / "out", *random_payments(1, 12, 40), names=names, companies=12, **options)
    assert result_digest(*tables(out)) == specified_digest(*tables(out))


def test_the_digest_of_a_given_result_never_changes() -> None:
    companies = pa.table(
        {
            "company": ["ACME", "회사"],
            "paid": [100, 50],
            "received": [50, 100],
            "component": [0, 0],
            "external_in": [50, 0],
            "external_out": [0, 50],
            "round_trip": [50.0, 25.0],
            "round_trip_low": [50.0, 24.5],
            "round_trip_high": [50.0, 25.5],
        }
    )
    flows = pa.table(
        {
            "payer": ["ACME", "회사"],
            "payee": ["회사", "ACME"],
            "amount": [100, 50],
            "payments": [2, 1],
            "component": pa.array([0, None], pa.int32()),
            "return_fraction": [0.5, None],
        }
    )
    components = pa.table(
        {
            "component": [0],
            "companies": [2],
            "flows": [2],
            "amount": [150],
            "circulation_low": pa.nulls(1, pa.float64()),
            "circulation_high": [100.0],
        }
    )
    assert (
        result_digest(companies, flows, components)
        == "c50f6b038019d851c7ab2cbb6bc0972d12000cc7bc27e1bd07d988602e838097"
    )


@pytest.mark.parametrize(
    ("key", "value"), [("unit", "KRW"), ("decimals", 0), ("boundary", "other.csv"), ("tolerance", 0.5)]
)
def test_altered_settings_are_found(key: str, value: Any, out: Path) -> None:
    edit_json(out, "run.json", ("settings", key), value)
    assert "files" in expect_found(out, f"settings {key}")


def test_a_file_that_no_run_wrote_is_named(out: Path) -> None:
    (out / "extra.txt").write_text("hello")
    assert "extra.txt" in verify(out).render()
    assert not verify(out).ok
