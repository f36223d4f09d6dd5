"""Bad input of every kind ends with a message that names the file and says what to do, and with exit code 3 (2: usage)."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ouroflow
from ouroflow import read_ledger
from ouroflow.cli import main
from ouroflow.errors import InputError, UsageError

pytestmark = pytest.mark.cpu

HEADER = "payer,payee,amount\n"
GOOD = HEADER + "a,b,1\nb,a,2\n"


def message_of(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """Run analyze; check the exit code and that stderr is one message without a traceback."""
    assert main(["analyze", "--quiet", *arguments]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("ouroflow: error: ")
    assert "Traceback" not in shown.err and "internal error" not in shown.err and len(shown.err) < 4000
    return shown.err


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty.csv": (b"", r"the file is empty \(0 bytes\)"),
    "blank.csv": (b"  \n\n ", "holds no text"),
    "blank-header.csv": (b" , , \na,b,1\n", "no column is known to be the payer"),
    "comments.csv": (b"# a\n# b\n", "comment lines only"),
    "header.csv": (HEADER.encode(), "no payments: the input has no rows"),
    "header-no-newline.csv": (HEADER.strip().encode(), "no payments: the input has no rows"),
    "empty.csv.gz": (gzip.compress(b""), "holds no text"),
    "one-column.csv": (b"payer\na\n", "holds one column only: 'payer'"),
    "words.txt": (b"this is no table\nat all\n", "not divided by comma, tab, semicolon or bar: 'this is no table'"),
    "no-header.csv": (b"1,2,5\n2,1,7\n", "has no header line, so its 3 columns cannot be told apart"),
    "text-no-header.csv": (b"ann,bob,5\n", "no column is known to be the payer.*All columns: ann, bob, 5"),
    "no-amount.csv": (b"payer,payee,note\na,b,x\n", "no column is known to be the amount. Say which: --amount COLUMN"),
    "no-payee.csv": (b"payer,thing,amount\na,b,1\n", "no column is known to be the payee"),
    "twice.csv": (b"payer,payee,amount,amount\na,b,1,2\n", "the header names 'amount' more than once"),
    "two-amounts.csv": (b"payer,payee,amount,value\na,b,1,2\n", "2 columns can be the amount: amount, value"),
    "two-times.csv": (b"payer,payee,amount,date,time\na,b,1,2,3\n", "2 columns can be the time: date, time.*--time ''"),
    "ragged.csv": (
        GOOD.encode() + b"c,d\n",
        r"1 of 3 rows cannot be used: 1 wrong number of fields(?s:.)*row 3: .*'c,d'",
    ),
    "all-ragged.csv": (HEADER.encode() + b"c,d\n", "1 of 1 rows cannot be used"),
    "open-quote.csv": (
        GOOD.encode() + b'"c,d,1\na,b,3\n',
        r"1 of 3 rows cannot be used(?s:.)*row 3: wrong number of fields",
    ),
    "open-quote-at-the-end.csv": (
        GOOD.encode() + b'c,d,"1\na,b,3\n',
        "the quote that opens the last value is never closed",
    ),
    "open-quote-in-header.csv": (b'payer,payee,"amount\na,b,1\n', "open|no rows|amount"),
    "long-row.csv": (
        HEADER.encode() + b'a,b,"' + b"x" * (20 << 20) + b'"\n',
        "one row is longer than 8 MB; a quote may not be",
    ),
    "long-header.csv": (b"x" * (2 << 20), "the first line is longer than 1 MB"),
    "no-payer.csv": (HEADER.encode() + b",b,1\n", "row 1: missing payer"),
    "blank-payee.csv": (HEADER.encode() + "a,\u3000,1\n".encode(), "row 1: missing payee"),
    "no-amounts.csv": (HEADER.encode() + b"a,b,\n", "row 1: missing amount"),
    "text-amount.csv": (
        GOOD.encode() + b"a,b,ten\n",
        r"1 of 3 rows.*1 amount not a number(?s:.)*row 3.*amount = 'ten'",
    ),
    "thousands.csv": (HEADER.encode() + b'a,b,"1,234.50"\n', r"amount = '1,234.50'(?s:.)*without thousands separators"),
    "comma-decimals.csv": (b"payer;payee;amount\na;b;1,5\n", "amount not a number"),
    "sign.csv": (HEADER.encode() + "a,b,₩500\n".encode(), "amount not a number"),
    "nan.csv": (HEADER.encode() + b"a,b,NaN\n", "1 amount not finite"),
    "infinite.csv": (HEADER.encode() + b"a,b,-inf\n", "1 amount not finite"),
    "negative.csv": (HEADER.encode() + b"a,b,-5\n", r"1 negative amount(?s:.)*--reversals flip"),
    "zero.csv": (HEADER.encode() + b"a,b,0.001\n", r"1 zero amount(?s:.)*raise decimals \(--decimals\)"),
    "huge.csv": (HEADER.encode() + b"a,b,1e17\n", r"1 amount too large(?s:.)*lower decimals \(--decimals\)"),
    "sum.csv": (HEADER.encode() + b"a,b,9e16\nb,a,9e16\n", "64-bit|int64"),
    "times.csv": (b"payer,payee,amount,date\na,b,1,31.12.2025\n", r"1 bad time(?s:.)*2025-01-31 13:45:00\+09:00"),
    "self.csv": (HEADER.encode() + b"a,a,1\n", "no payments are left of 1 rows: 1 payments to oneself"),
    "currencies.csv": (b"payer,payee,amount,currency\na,b,1,EUR\nb,a,1,USD\n", r"in 2 currencies: .*--rates FILE"),
    "no-currency.csv": (b"payer,payee,amount,currency\na,b,1,\nb,a,1,USD\n", r"1 missing currency(?s:.)*--currency ''"),
    "latin-1.csv": ("payer,payee,amount\nété,Zürich,1\n".encode("latin-1"), "neither UTF-8, UTF-16 nor cp949.*iconv"),
    "rubbish.csv": (bytes(range(1, 256)) * 9, "neither UTF-8, UTF-16 nor cp949"),
    "rubbish-later.csv": (GOOD.encode() + b"a,b,1\n" * 300_000 + b"\xff\xfe,b,1\n", "bytes that are no text.*iconv"),
    "rubbish-utf16.csv": (GOOD.encode("utf-16") + b"\x00\xd8\x00\x00", "bytes that are no text|zero bytes"),
    "zero-bytes.csv": (HEADER.encode() + b"a\0,b,1\n", "holds zero bytes, so it is not a CSV file"),
    "cut.csv.gz": (gzip.compress(GOOD.encode() * 50)[:-12], "cannot be read as a table.*damaged or cut off"),
    "broken.csv.gz": (gzip.compress(GOOD.encode())[:12] + b"\xff" * 30, "cannot be read as a table"),
    "cut.csv.zst": (
        pa.compress(os.urandom(9000), "zstd", asbytes=True)[:4000],
        "cannot be read|neither UTF-8|holds no text",
    ),
    "not.parquet": (GOOD.encode(), "the name says parquet, the content does not"),
    "not.arrow": (GOOD.encode(), "the name says arrow, the content does not"),
    "cut.parquet": (b"PAR1" + b"x" * 40, "cannot be read as a table"),
    "cut.arrow": (b"ARROW1\0\0" + b"x" * 40, "cannot be read as a table"),
    "workbook.xlsx": (b"PK\x03\x04" + b"x" * 40, "a ZIP archive or a workbook; export the sheet as CSV"),
    "database.db": (b"SQLite format 3\0" + b"x" * 40, "an SQLite database"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_end_with_a_message_and_exit_code_3(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, message = BAD_FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    shown = message_of([str(path)], 3, capsys)
    assert re.search(message, shown), shown
    assert name in shown or name == "sum.csv", "the message names the file"


def test_one_row_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text(HEADER + "a,b,1")
    assert len(read_ledger(path)) == 1


def test_the_first_ten_bad_rows_are_shown_with_counts_by_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(HEADER + "".join(f"a,b,{'x' if k % 2 else ''}\n" for k in range(5000)) + "a,b,1\n")
    shown = message_of([str(path)], 3, capsys)
    assert "5,000 of 5,001 rows cannot be used: 2,500 missing amount, 2,500 amount not a number" in shown
    assert re.findall(r"row (\d+):", shown) == [str(k) for k in range(1, 11)]
    assert "--on-bad-rows reject" in shown


def test_rejected_rows_are_written_and_the_rest_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "bad.csv", tmp_path / "out"
    path.write_text(GOOD + "a,,3\na,b,x\n")
    assert main(["analyze", str(path), "-o", str(out), "--quiet", "--on-bad-rows", "reject"]) == 0
    capsys.readouterr()
    rejected = pq.read_table(out / "rejected.parquet").to_pylist()
    assert [(row["file"], row["row"], row["reason"], row["raw_amount"]) for row in rejected] == [
        (str(path), 3, "missing payee", "3"),
        (str(path), 4, "amount not a number", "x"),
    ]


# --- what is not there, or may not be read --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.csv", "no such file or folder"),
        ("nowhere*.csv", "no file matches"),
        ("folder", "the folder holds no Parquet, CSV or Arrow file"),
        ("file:///nowhere/at/all.csv", "nothing is there that can be read"),
        ("memory://nowhere-at-all", "nothing is there that can be read"),
        ("nosuchscheme://bucket/x.csv", "cannot be opened"),
    ],
)
def test_inputs_that_are_not_there(name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "readme.md").write_text("x")
    given = name if "://" in name else str(tmp_path / name)
    shown = message_of([given], 3, capsys)
    assert message in shown and name in shown


def test_files_and_folders_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.csv"
    path.write_text(GOOD)
    if os.geteuid() == 0:  # root may read everything, so the refusal is made here

        def refuse(*_: Any, **__: Any) -> Any:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("builtins.open", refuse)
    else:
        path.chmod(0)
    with pytest.raises(InputError, match=r"secret.csv: may not be read \(Permission denied\); check its permissions"):
        read_ledger(path)


def test_a_file_that_goes_away_while_it_is_read_is_an_error_of_ours(tmp_path: Path) -> None:
    from ouroflow.ledger.sources import open_sources

    path = tmp_path / "gone.csv"
    path.write_text(GOOD)
    (source,) = open_sources(path)
    path.unlink()
    with pytest.raises(InputError, match=r"gone.csv: cannot be read"):
        list(source.read(["payer"]))
    with pytest.raises(InputError, match=r"gone.csv: cannot be read"):
        source.describe(2)


def test_names_with_zero_bytes_and_nothing_at_all() -> None:
    with pytest.raises(InputError, match="zero byte"):
        read_ledger("a\0b.csv")
    with pytest.raises(InputError, match="empty"):
        read_ledger("")
    with pytest.raises(UsageError, match="no input was given"):
        read_ledger([])
    for nonsense in (5, None, {"payer": ["a"]}, object()):
        with pytest.raises(UsageError, match="payments cannot be read from"):
            read_ledger(nonsense)


# --- several files --------------------------------------------------------------------------------------------------


def write_csv(path: Path) -> None:
    path.write_text(GOOD)


def write_integers(path: Path) -> None:
    pq.write_table(pa.table({"payer": [1, 2], "payee": [2, 1], "amount": [1, 2]}), path)


def write_other(path: Path) -> None:
    pq.write_table(pa.table({"from": [1, 2], "to": [2, 1], "amount": [1, 2]}), path)


def write_steps(path: Path) -> None:
    path.write_text("payer,payee,amount,time\na,b,1,5\n")


def write_dates(path: Path) -> None:
    path.write_text("payer,payee,amount,time\na,b,1,2025-01-01\n")


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            ("a.csv", write_csv),
            ("b.parquet", write_integers),
            "b.parquet: payer holds integers.*earlier columns or files hold text",
        ),
        (("a.parquet", write_integers), ("b.csv", write_csv), "b.csv: payer holds text.*hold integers"),
        (
            ("a.parquet", write_integers),
            ("b.parquet", write_other),
            "b.parquet has no column 'payer', 'payee', which .*a.parquet has",
        ),
        (
            ("a.csv", write_steps),
            ("b.csv", write_dates),
            "b.csv: column 'time' holds dates in one part and plain numbers",
        ),
    ],
)
def test_files_that_do_not_go_together(
    first: tuple[str, Callable[[Path], None]],
    second: tuple[str, Callable[[Path], None]],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = []
    for name, write in (first, second):
        write(tmp_path / name)
        paths.append(str(tmp_path / name))
    assert re.search(message, message_of(paths, 3, capsys))


# --- columns of frames and Parquet ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("payer", pa.array([1.5, 2.0]), "holds double; companies are text or whole numbers"),
        ("payer", pa.array([b"a", b"b"]), "holds binary; companies are text or whole numbers"),
        ("payee", pa.array([[1], [2]]), "holds list"),
        ("payer", pa.nulls(2), "2 missing payer"),
        ("payer", pa.array([2**64 - 1, 1], pa.uint64()), "past int64|hold"),
        ("amount", pa.array([True, False]), "2 amount not a number"),
        ("amount", pa.nulls(2), "2 missing amount"),
        ("amount", pa.array([float("nan"), float("inf")]), "2 amount not finite"),
        ("amount", pa.array([2**63 - 1, -(2**63)]), "2 amount too large"),
        ("amount", pa.array([-1.0, 0.0]), "1 negative amount, 1 zero amount"),
    ],
)
def test_columns_of_the_wrong_type_or_content(column: str, values: pa.Array, message: str, tmp_path: Path) -> None:
    table = pa.table({"payer": ["a", "b"], "payee": ["b", "a"], "amount": [1, 2]})
    if column == "payer" and pa.types.is_uint64(values.type):
        table = table.set_column(1, "payee", pa.array([1, 2], pa.uint64()))
    table = table.set_column(table.column_names.index(column), column, values)
    pq.write_table(table, tmp_path / "p.parquet")
    for source in (table, tmp_path / "p.parquet"):
        with pytest.raises(InputError, match=message):
            read_ledger(source)


def test_pandas_columns_of_mixed_types_and_names_given_twice() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"payer": ["a", 7], "payee": ["b", "a"], "amount": [1, 2]})
    with pytest.raises(InputError, match="pandas DataFrame: column 'payer' holds mixed or unknown types"):
        read_ledger(frame)
    twice = pandas.DataFrame([["a", "b", 1, 2]], columns=["payer", "payee", "amount", "amount"])
    with pytest.raises(InputError, match="'amount' more than once"):
        read_ledger(twice)
    with pytest.raises(InputError, match="no rows"):
        read_ledger(frame.iloc[:0].astype(str))
    with pytest.raises(InputError, match="no column is known to be the payer"):
        read_ledger(pandas.DataFrame())


def test_text_in_parquet_that_is_no_text(tmp_path: Path) -> None:
    wrong = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff\xfe", b"ok"]).buffers())
    table = pa.table({"payer": wrong, "payee": pa.array(["b", "a"]), "amount": [1, 2]})
    pq.write_table(table, tmp_path / "p.parquet")
    with pytest.raises(InputError, match=r"p.parquet: holds bytes that are no text"):
        read_ledger(tmp_path / "p.parquet")
    many = pa.concat_tables([table] * 20_000).combine_chunks()  # so many texts are only scanned, and judged at the end
    pq.write_table(many, tmp_path / "many.parquet", use_dictionary=False)
    with pytest.raises(InputError, match=r"many.parquet: an identity is not UTF-8"):
        read_ledger(tmp_path / "many.parquet")
    table = pa.table({"payer": ["a", "b"], "payee": ["b", "a"], "amount": [1, 2], "id": wrong})
    with pytest.raises(InputError, match="bytes that are no text"):
        read_ledger(table)


# --- settings and small tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--decimals", "19"], 2, "decimals 19: give a whole number from 0 to 18"),
        (["--decimals", "-1"], 2, "decimals -1"),
        (
            ["--payer", "nowhere"],
            3,
            "has no column 'nowhere' \\(asked for as payer\\); its columns are: payer, payee, amount",
        ),
        (["--payer", "payee", "--payee", "payee"], 2, "payer and payee are both read from column 'payee'"),
        (["--status", "done"], 3, "no column is known to be the status"),
        (["--rates", "RATES"], 3, "no column is known to be the currency; name it: --currency COLUMN"),
        (
            ["--rates", "nowhere.csv", "--currency", "payer"],
            3,
            "nowhere.csv: there is no such file to read the rates from",
        ),
        (["--entities", "nowhere.csv"], 3, "nowhere.csv: there is no such file to read the entities from"),
        (["--boundary", "nowhere.csv"], 3, "nowhere.csv: there is no such file to read the boundary from"),
        (["--entities", "RATES"], 3, "no column 'company' and no column 'parent'"),
    ],
)
def test_settings_that_make_no_sense(
    arguments: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, rates = tmp_path / "p.csv", tmp_path / "rates.csv"
    path.write_text(GOOD)
    rates.write_text("currency,rate\nEUR,1\n")
    arguments = [str(rates) if argument == "RATES" else argument for argument in arguments]
    assert re.search(message, message_of([str(path), *arguments], code, capsys))


def test_settings_of_the_python_interface() -> None:
    table = pa.table({"payer": ["a"], "payee": ["b"], "amount": [1], "status": ["x"]})
    for settings in (
        {"reversals": "maybe"},
        {"on_bad_rows": "hide"},
        {"decimals": 2.5},
        {"statuses": "x"},
        {"statuses": [1]},
    ):
        with pytest.raises(UsageError):
            read_ledger(table, **settings)  # type: ignore[arg-type]
    assert len(ouroflow.read_ledger(table, statuses=["x"])) == 1


def test_the_same_file_twice_would_count_double(tmp_path: Path) -> None:
    path = tmp_path / "payments.csv"
    path.write_text("payer,payee,amount\na,b,2\nb,a,1\n", encoding="utf-8")
    with pytest.raises(InputError, match="given twice"):
        read_ledger([path, tmp_path / "." / "payments.csv"])
    copy = tmp_path / "copy.csv"
    copy.write_bytes(path.read_bytes())
    ledger = read_ledger([path, copy])
    assert any("is a copy of" in note for note in ledger.notes)
