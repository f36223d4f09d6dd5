"""Payments in: every kind of source gives the same ledger, and every rule about rows and money holds to the last unit."""

from __future__ import annotations

import bz2
import gzip
import hashlib
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ouroflow
from ouroflow import read_ledger
from ouroflow.errors import InputError
from ouroflow.ledger import Ledger

pytestmark = pytest.mark.cpu

ROWS = [("a", "b", "2.50"), ("b", "c", "1.00"), ("c", "a", "1.00"), ("a", "b", "0.50"), ("c", "c", "9.00")]
TEXT = "payer,payee,amount\n" + "".join(",".join(row) + "\n" for row in ROWS)
TABLE = pa.table({name: [row[k] for row in ROWS] for k, name in enumerate(("payer", "payee", "amount"))})
FLOATS = TABLE.set_column(2, "amount", pa.array([2.5, 1.0, 1.0, 0.5, 9.0]))


def payments_of(ledger: Ledger) -> list[tuple[Any, Any, int]]:
    names = ledger.companies.to_pylist()
    columns = ledger.payer.tolist(), ledger.payee.tolist(), ledger.amount.tolist()
    return [(names[payer], names[payee], amount) for payer, payee, amount in zip(*columns, strict=True)]


def of_csv(tmp_path: Path, text: str, **settings: Any) -> Ledger:
    path = tmp_path / "payments.csv"
    path.write_text(text, encoding="utf-8")
    return read_ledger(path, **settings)


def assert_is_the_example(ledger: Ledger, rows: int = 5) -> None:
    assert payments_of(ledger) == [("a", "b", 250), ("b", "c", 100), ("c", "a", 100), ("a", "b", 50)]
    assert (ledger.rows.read, ledger.rows.used, ledger.rows.self_payments) == (rows, 4, 1)
    assert ledger.rows.rejected == {}
    assert ledger.self_amount == 900
    assert ledger.where([0, 3]) == [(ledger.inputs[0].path, 1), (ledger.inputs[0].path, 4)]


# --- sources --------------------------------------------------------------------------------------------------------


def write_parquet(path: Path) -> None:
    pq.write_table(TABLE, path, row_group_size=2)


def write_arrow(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, FLOATS.schema) as writer:
        writer.write_table(FLOATS, max_chunksize=2)


def write_stream(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)


FILES: dict[str, Any] = {
    "p.parquet": write_parquet,
    "p.arrow": write_arrow,
    "p.arrows": write_stream,
    "p.csv": lambda path: path.write_text(TEXT),
    "p.tsv": lambda path: path.write_text(TEXT.replace(",", "\t")),
    "semicolons.csv": lambda path: path.write_text(TEXT.replace(",", ";")),
    "no-newline-at-the-end.csv": lambda path: path.write_text(TEXT.rstrip("\n")),
    "old-mac.csv": lambda path: path.write_bytes(TEXT.replace("\n", "\r").encode()),
    "windows.csv": lambda path: path.write_bytes(TEXT.replace("\n", "\r\n").encode()),
    "comments.csv": lambda path: path.write_text("# of the bank\n\n" + TEXT.replace("b,c", "\nb,c")),
    "mark.csv": lambda path: path.write_bytes(TEXT.encode("utf-8-sig")),
    "wide.csv": lambda path: path.write_bytes(TEXT.encode("utf-16")),
    "p.csv.gz": lambda path: path.write_bytes(gzip.compress(TEXT.encode())),
    "p.csv.bz2": lambda path: path.write_bytes(bz2.compress(TEXT.encode())),
    "p.csv.zst": lambda path: path.write_bytes(pa.compress(TEXT.encode(), "zstd", asbytes=True)),
    "packed-without-saying-so.csv": lambda path: path.write_bytes(gzip.compress(TEXT.encode())),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_ledger(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    FILES[name](path)
    ledger = read_ledger(path)
    assert_is_the_example(ledger)
    (file,) = ledger.inputs
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (file.bytes, file.rows) == (path.stat().st_size, 5)


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_urls_are_read_through_fsspec(scheme: str, tmp_path: Path) -> None:
    import fsspec

    folder = f"memory://ledger-{tmp_path.name}" if scheme == "memory" else tmp_path.as_uri()
    for name, content in (("a.csv", TEXT.encode()), ("b.csv.gz", gzip.compress(TEXT.encode()))):
        with fsspec.open(f"{folder}/{name}", "wb") as file:
            file.write(content)
    with fsspec.open(f"{folder}/c.parquet", "wb") as file:
        pq.write_table(TABLE, file)
    for url in (f"{folder}/a.csv", f"{folder}/b.csv.gz", f"{folder}/c.parquet"):
        assert_is_the_example(read_ledger(url))
    assert read_ledger(folder).rows.read == 15
    assert read_ledger(f"{folder}/*.csv").rows.read == 5


def frames() -> dict[str, Any]:
    networkx = pytest.importorskip("networkx")
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    graph = networkx.MultiDiGraph()
    for payer, payee, amount in ROWS:
        graph.add_edge(payer, payee, amount=float(amount), color=object())
    shuffled = sorted(ROWS, key=lambda row: list(graph.nodes).index(row[0]))
    return {
        "pandas objects": pandas.DataFrame(TABLE.to_pydict(), dtype=object),
        "pandas decimals": pandas.DataFrame(TABLE.to_pydict() | {"amount": [Decimal(row[2]) for row in ROWS]}),
        "pandas floats": FLOATS.to_pandas(),
        "pandas categoricals": FLOATS.to_pandas().astype({"payer": "category", "payee": "category"}),
        "pandas index": FLOATS.to_pandas().set_index(pandas.Index([5, 4, 3, 2, 1])),
        "a column nobody reads": FLOATS.to_pandas().assign(note=[1, "x", None, {}, object()]),
        "polars": polars.from_arrow(TABLE),
        "polars lazy": polars.from_arrow(FLOATS).lazy(),
        "polars categorical": polars.from_arrow(TABLE).with_columns(polars.col("payer").cast(polars.Categorical)),
        "arrow": TABLE,
        "arrow batch": TABLE.to_batches()[0],
        "arrow dictionaries": pa.table({name: TABLE[name].dictionary_encode() for name in TABLE.column_names}),
        "arrow large": pa.table({name: TABLE[name].cast(pa.large_string()) for name in TABLE.column_names}),
        "arrow views": pa.table({name: TABLE[name].cast(pa.string_view()) for name in TABLE.column_names}),
        "arrow decimals": TABLE.set_column(2, "amount", TABLE["amount"].cast(pa.decimal128(12, 4))),
        "chunks": pa.concat_tables([TABLE.slice(k, 1) for k in range(5)]),
        "networkx": (graph, shuffled),
    }


@pytest.mark.parametrize("name", frames())
def test_every_kind_of_frame_gives_the_same_ledger(name: str) -> None:
    frame = frames()[name]
    if name == "networkx":
        frame, rows = frame
        assert payments_of(read_ledger(frame)) == [(a, b, round(100 * float(x))) for a, b, x in rows if a != b]
        return
    ledger = read_ledger(frame)
    assert_is_the_example(ledger)
    assert (ledger.inputs[0].sha256, ledger.inputs[0].bytes) == (None, None)


def test_integers_stay_integers_and_plain_graphs_count_payments() -> None:
    networkx = pytest.importorskip("networkx")
    ledger = read_ledger(networkx.DiGraph([(7, 9), (9, 7)]))
    assert ledger.companies.type == pa.int64()
    assert payments_of(ledger) == [(7, 9, 1), (9, 7, 1)]
    assert ledger.decimals == 0, "a payment without amount counts as one unit, not as one cent"
    with pytest.raises(InputError, match="payments have a direction"):
        read_ledger(networkx.Graph([(1, 2)]))
    with pytest.raises(InputError, match="mixed or unknown types"):
        read_ledger(networkx.DiGraph([(1, "b"), ("b", 1)]))
    with pytest.raises(InputError, match="no edges"):
        read_ledger(networkx.DiGraph())


def test_folders_globs_and_lists_are_one_input_with_rows_by_file(tmp_path: Path) -> None:
    (tmp_path / "2025").mkdir()
    (tmp_path / "_notes").mkdir()
    (tmp_path / "a.csv").write_text(TEXT)
    (tmp_path / "2025" / "b.csv.gz").write_bytes(gzip.compress(TEXT.encode()))
    (tmp_path / "_notes" / "c.csv").write_text("not,a,ledger\n")
    (tmp_path / ".hidden.csv").write_text("x")
    (tmp_path / "readme.md").write_text("x")
    for source in (tmp_path, [tmp_path / "2025", tmp_path / "a.csv"]):
        ledger = read_ledger(source)
        assert (ledger.rows.read, ledger.rows.used, ledger.rows.self_payments) == (10, 8, 2)
        assert [Path(file.path).name for file in ledger.inputs] == ["b.csv.gz", "a.csv"]
        assert ledger.file_offsets.tolist() == [0, 5, 10]
        assert ledger.where([3, 4]) == [(ledger.inputs[0].path, 4), (ledger.inputs[1].path, 1)]
    assert [Path(file.path).name for file in read_ledger(f"{tmp_path}/**/b*").inputs] == ["b.csv.gz"]


def test_a_bundled_data_set_is_for_analyze() -> None:
    with pytest.raises(ouroflow.errors.UsageError, match="bundled data set"):
        read_ledger("ai-deals")


# --- rows -----------------------------------------------------------------------------------------------------------


def test_row_numbers_count_data_rows_through_blank_lines_and_ragged_rows(tmp_path: Path) -> None:
    text = '# note\npayer,payee,amount\na,b,1\n\nb,c\nb,"c\nd",2\nc,a,1,5\nc,a,oops\nc,a,7\nx\n'
    ledger = of_csv(tmp_path, text, on_bad_rows="reject")
    assert ledger.rejected is not None
    assert ledger.rejected.select(["row", "reason"]).to_pylist() == [
        {"row": 2, "reason": "wrong number of fields"},
        {"row": 4, "reason": "wrong number of fields"},
        {"row": 5, "reason": "amount not a number"},
        {"row": 7, "reason": "wrong number of fields"},
    ]
    assert [row for _, row in ledger.where([0, 1, 2])] == [1, 3, 6]
    assert ledger.rows.rejected == {"amount not a number": 1, "wrong number of fields": 3}
    assert ledger.rejected["raw_payer"].to_pylist() == ["b,c", "c,a,1,5", "c", "x"]


def test_ragged_rows_count_at_the_end_of_one_file_and_before_the_next(tmp_path: Path) -> None:
    paths = [tmp_path / "1.csv", tmp_path / "2.csv"]
    paths[0].write_text("payer,payee,amount\na,b,1\nx\ny\n")
    paths[1].write_text("payer,payee,amount\nz\na,b,2\n")
    ledger = read_ledger(paths, on_bad_rows="reject")
    assert ledger.where([0, 1]) == [(str(paths[0]), 1), (str(paths[1]), 2)]
    assert ledger.rows.read == 5
    assert ledger.file_offsets.tolist() == [0, 3, 5]


def test_many_batches_keep_rows_in_place(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    count = 300_000
    amount = rng.integers(-2, 50, count)
    payer, payee = rng.integers(0, 20, (2, count))
    lines = [f"{a},{b},{x}" if x != 0 else f"{a},{b}" for a, b, x in zip(payer, payee, amount, strict=True)]
    ledger = of_csv(tmp_path, "payer,payee,amount\n" + "\n".join(lines), on_bad_rows="reject")
    good = (amount > 0) & (payer != payee)
    assert [row - 1 for _, row in ledger.where(np.arange(len(ledger)))] == np.flatnonzero(good).tolist()
    assert ledger.rejected is not None
    assert (ledger.rejected["row"].to_numpy() - 1 == np.flatnonzero(amount <= 0)).all()
    assert ledger.rows.self_payments == np.count_nonzero((amount > 0) & (payer == payee))
    names = np.array(ledger.companies.to_pylist()).astype(int)
    assert (names[ledger.payer] == payer[good]).all()
    assert (ledger.amount == 100 * amount[good]).all()


def test_reversals_are_paid_back_with_their_ranges(tmp_path: Path) -> None:
    text = "payer,payee,amount,amount_low,amount_high\na,b,5,4,6\na,b,-2,-3,-1\na,b,-1,,\na,b,-1,1,2\n"
    with pytest.raises(InputError, match=r"3 negative amount.*(?s:.)*--reversals flip"):
        of_csv(tmp_path, text)
    ledger = of_csv(tmp_path, text, reversals="flip", on_bad_rows="reject")
    assert payments_of(ledger) == [("a", "b", 500), ("b", "a", 200), ("b", "a", 100)]
    assert ledger.low is not None
    assert ledger.high is not None
    assert list(zip(ledger.low.tolist(), ledger.high.tolist(), strict=True)) == [(400, 600), (100, 300), (100, 100)]
    assert ledger.rows.rejected == {"range out of order": 1}


def test_announced_ranges_stand_in_for_what_is_missing_and_must_hold_the_amount(tmp_path: Path) -> None:
    text = (
        "payer,payee,amount,amount_low,amount_high\na,b,5,,6\nb,a,5,4,\na,c,5,6,7\nc,a,5,1,4\nc,b,5,x,9\nb,c,5,5,inf\n"
    )
    ledger = of_csv(tmp_path, text, on_bad_rows="reject")
    assert ledger.low is not None
    assert ledger.high is not None
    assert ledger.low.tolist() == [500, 400]
    assert ledger.high.tolist() == [600, 500]
    assert ledger.rows.rejected == {"range not a number": 2, "range out of order": 2}


def test_statuses_are_chosen_and_the_others_counted(tmp_path: Path) -> None:
    text = "payer,payee,amount,status\na,b,1,done\nb,a,2,planned\nb,c,3,\nc,a,x,planned\nc,a,5,done\n"
    ledger = of_csv(tmp_path, text, statuses={"done"})
    assert payments_of(ledger) == [("a", "b", 100), ("c", "a", 500)]
    assert ledger.rows.rejected == {"status not selected": 3}, "a row of another status is not looked at any further"
    assert ledger.not_selected == {"planned": 2, "(none)": 1}
    assert ledger.totals_by_status == {"done": 600}
    with pytest.raises(InputError, match=r"no payments are left.*statuses found: done \(2\), planned \(2\)"):
        of_csv(tmp_path, text, statuses={"dnoe"})
    assert any("'other'" in note for note in of_csv(tmp_path, text, statuses={"done", "other"}).notes)


# --- money ----------------------------------------------------------------------------------------------------------


def test_rounding_is_half_even_and_its_difference_is_told(tmp_path: Path) -> None:
    text = "payer,payee,amount,date\na,b,1.005,2025-01-01\nb,a,1.015,2025-01-01\nb,c,7.777,nonsense\na,a,0.011,2025-01-01\n"
    ledger = of_csv(tmp_path, text, on_bad_rows="reject")
    assert ledger.amount.tolist() == [100, 102]
    assert ledger.rounding == Fraction(-1, 2) + Fraction(1, 2) - Fraction(1, 10), (
        "of used rows and of payments to oneself"
    )
    assert any("rounded to 2 decimals" in note for note in ledger.notes)
    back = of_csv(tmp_path, "payer,payee,amount\na,b,-1.005\nb,a,3\n", reversals="flip")
    assert back.rounding == Fraction(-1, 2)


def test_sums_past_int64_are_an_error_and_single_amounts_up_to_int64_are_not(tmp_path: Path) -> None:
    largest = 2**63 - 1
    ledger = of_csv(tmp_path, f"payer,payee,amount\na,b,{largest}\n", decimals=0)
    assert ledger.amount.tolist() == [largest]
    assert ledger.graph().total == largest
    with pytest.raises(InputError, match=r"int64|64-bit"):
        of_csv(tmp_path, f"payer,payee,amount\na,b,{largest}\nb,a,1\n", decimals=0).graph()
    with pytest.raises(InputError, match="1 amount too large"):
        of_csv(tmp_path, f"payer,payee,amount\na,b,{largest + 1}\nb,a,1\n", decimals=0)
    to_self = of_csv(tmp_path, f"payer,payee,amount\na,a,{largest}\nb,b,{largest}\na,b,1\n", decimals=0)
    assert to_self.self_amount == 2 * largest


def test_currencies_are_one_or_converted(tmp_path: Path) -> None:
    text = "payer,payee,amount,currency,amount_low,amount_high\na,b,10,EUR,9,11\nb,a,1000,krw,,\nb,c,3,,,\n"
    with pytest.raises(InputError, match="1 missing currency"):
        of_csv(tmp_path, text)
    with pytest.raises(InputError, match=r"2 currencies: EUR \(1 payments\), KRW \(1 payments\).*--rates FILE"):
        of_csv(tmp_path, text, on_bad_rows="reject")
    rates = {"currency": ["EUR", "KRW", "USD"], "rate": ["1.2", "0.0007", "1"]}
    ledger = of_csv(tmp_path, text, rates=rates, on_bad_rows="reject")
    assert ledger.amount.tolist() == [1200, 70]
    assert ledger.low is not None
    assert ledger.high is not None
    assert (ledger.low.tolist(), ledger.high.tolist()) == ([1080, 70], [1320, 70]), "ranges are converted as well"
    assert ledger.currency == "USD"
    with pytest.raises(InputError, match="1 no rate for currency"):
        of_csv(tmp_path, text.replace("EUR", "CHF"), rates=rates, currency="currency")
    same = of_csv(tmp_path, "payer,payee,amount,currency\na,b,1,usd\nb,a,1,USD \n")
    assert same.currency == "USD"


def test_rates_hold_from_their_date_on(tmp_path: Path) -> None:
    rates = {"currency": ["EUR", "EUR"], "rate": ["2", "3"], "date": ["2025-01-01", "2025-02-01"]}
    text = "payer,payee,amount,currency,date\na,b,1,EUR,{}\n"
    for day, cents in (("2025-01-01", 200), ("2025-01-31T23:59:59Z", 200), ("2025-02-01", 300), ("2026-01-01", 300)):
        assert of_csv(tmp_path, text.format(day), rates=rates).amount.tolist() == [cents]
    with pytest.raises(InputError, match="1 no rate for currency"):
        of_csv(tmp_path, text.format("2024-12-31"), rates=rates)
    with pytest.raises(InputError, match="by date, but the payments have no time"):
        of_csv(tmp_path, text.format("17"), rates=rates)
    with pytest.raises(InputError, match="no column is known to be the currency"):
        of_csv(tmp_path, "payer,payee,amount\na,b,1\n", rates=rates)


# --- times, identities, tables --------------------------------------------------------------------------------------


def test_times_of_all_zones_are_the_same_moment(tmp_path: Path) -> None:
    text = "payer,payee,amount,time\na,b,1,2025-01-01T09:00:00+09:00\nb,a,1,2025-01-01\n"
    ledger = of_csv(tmp_path, text)
    assert ledger.time is not None
    assert ledger.time.tolist() == [1735689600 * 10**9] * 2
    seoul = pa.array([1735689600] * 2, pa.timestamp("s", "Asia/Seoul"))
    table = pa.table({"payer": ["a", "b"], "payee": ["b", "a"], "amount": [1, 1], "time": seoul})
    assert read_ledger(table).time.tolist() == ledger.time.tolist()  # type: ignore[union-attr]
    steps = of_csv(tmp_path, "payer,payee,amount,step\na,b,1,3\nb,a,1,4\n")
    assert (steps.time_unit, steps.time.tolist()) == ("steps", [3, 4])  # type: ignore[union-attr]
    with pytest.raises(InputError, match=r"1 bad time(?s:.)*row 2(?s:.)*--time ''"):
        of_csv(tmp_path, "payer,payee,amount,time\na,b,1,2025-01-01\nb,a,1,2025-02-30\n")
    assert len(of_csv(tmp_path, "payer,payee,amount,time\na,b,1,x\n", time="")) == 1


HOSTILE = [
    "주식회사 가나",
    "🏦",
    "=1+1",
    "<script>",
    "'; drop table",
    "a\tb",
    'say "hi"',
    "\u202egnp",
    "x" * 100_000,
    " padded ",
    "\x1b[31m",
]


def test_names_of_every_kind_are_kept_as_they_are(tmp_path: Path) -> None:
    table = pa.table({"payer": HOSTILE, "payee": HOSTILE[1:] + HOSTILE[:1], "amount": range(1, len(HOSTILE) + 1)})
    pq.write_table(table, tmp_path / "p.parquet")
    pa.csv.write_csv(table, tmp_path / "p.csv")
    for source in (table, tmp_path / "p.parquet", tmp_path / "p.csv"):
        ledger = read_ledger(source)
        assert sorted(ledger.companies.to_pylist()) == sorted(HOSTILE)
        assert [payment[0] for payment in payments_of(ledger)] == HOSTILE
    zero = read_ledger(pa.table({"payer": ["a\0b", "a"], "payee": ["a", "a\0b"], "amount": [1, 2]}))
    assert payments_of(zero) == [("a\0b", "a", 100), ("a", "a\0b", 200)]


def test_korean_windows_files_are_read_and_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "korean.csv"
    path.write_bytes("보내는사람,받는사람,금액\n㈜가나,다라,5\n다라,㈜가나,7\n".encode("cp949"))
    ledger = read_ledger(path)
    assert payments_of(ledger) == [("㈜가나", "다라", 500), ("다라", "㈜가나", 700)]
    assert any("cp949" in note for note in ledger.notes)
    assert ledger.columns == {"payer": "보내는사람", "payee": "받는사람", "amount": "금액"}


def test_entities_merge_before_payments_to_oneself_are_told_apart(tmp_path: Path) -> None:
    text = "payer,payee,amount,id\na,b,1,p1\nb,c,2,p2\nx,c,3,p3\nc,x,oops,p4\nc,c,4,p5\n"
    entities = {"company": ["a", "b", "q"], "parent": ["b", "x", "x"]}
    ledger = of_csv(tmp_path, text, entities=entities, on_bad_rows="reject")
    assert payments_of(ledger) == [("x", "c", 200), ("x", "c", 300)]
    assert (ledger.rows.self_payments, ledger.self_amount) == (2, 500)
    assert ledger.where([0, 1]) == [(ledger.inputs[0].path, 2), (ledger.inputs[0].path, 3)]
    assert ledger.payment_id is not None
    assert ledger.payment_id.to_pylist() == ["p2", "p3"]
    assert any("1 of 3 companies" in note for note in ledger.notes)
    with pytest.raises(InputError, match="cycle"):
        of_csv(tmp_path, text, entities={"company": ["a", "b"], "parent": ["b", "a"]})


def test_known_external_flows_follow_their_companies(tmp_path: Path) -> None:
    boundary = {"company": ["b", "a", "stranger"], "inflow": ["1.5", "2", "9"], "outflow": ["", "0.25", "1"]}
    ledger = of_csv(tmp_path, "payer,payee,amount\na,b,1\nb,c,2\n", boundary=boundary)
    assert ledger.inflow is not None
    assert ledger.outflow is not None
    assert (ledger.inflow.tolist(), ledger.outflow.tolist()) == ([200, 150, 0], [25, 0, 0])
    assert any("stranger" in note for note in ledger.notes)
    merged = of_csv(
        tmp_path, "payer,payee,amount\na,b,1\nb,c,2\n", boundary=boundary, entities={"company": ["a"], "parent": ["c"]}
    )
    assert merged.inflow is not None
    assert dict(zip(merged.companies.to_pylist(), merged.inflow.tolist(), strict=True)) == {"c": 200, "b": 150}


def test_columns_are_guessed_or_asked_for(tmp_path: Path) -> None:
    ledger = of_csv(tmp_path, "Seller, Buyer ,Total Amount (USD)\nann,bob,5\n")
    assert payments_of(ledger) == [("bob", "ann", 500)]
    assert ledger.guessed == ("payer", "payee", "amount")
    assert any(note.startswith("columns guessed: payer = Buyer") for note in ledger.notes)
    bank = "Timestamp,From Bank,Account,To Bank,Account.1,Amount Received,Amount Paid\n2022/09/01 00:20,1,A,2,B,5,6\n"
    with pytest.raises(InputError, match=r"2 columns can be the amount: Amount Received, Amount Paid.*--amount COLUMN"):
        of_csv(tmp_path, bank)
    both = "from_bank,from_account,to_bank,to_account,amount\n1,A,2,B,5\n"
    with pytest.raises(InputError, match=r"2 columns can be the payer \(from_bank, from_account\)"):
        of_csv(tmp_path, both)
    assert payments_of(of_csv(tmp_path, both, payer="from_account", payee="to_account")) == [("A", "B", 500)]
    pairs = of_csv(tmp_path, "# nodes\n1\t2\n2\t1\n")
    assert payments_of(pairs) == [("1", "2", 1), ("2", "1", 1)]


def test_names_that_differ_by_blanks_only_are_told_of(tmp_path: Path) -> None:
    ledger = of_csv(tmp_path, "payer,payee,amount\nAcme,Bolt,2\nBolt,Acme ,1\n")
    assert len(ledger.companies) == 3
    assert any("only by blanks" in note and "'Acme'" in note for note in ledger.notes)
    assert not any("blanks" in note for note in of_csv(tmp_path, "payer,payee,amount\n Acme,Bolt,2\n").notes)
