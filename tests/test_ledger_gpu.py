"""The device twin of the reader gives the CPU twin's ledger, and its messages, for clean input of every kind and for bad input.

cuDF has no device here. Its place is taken by pandas behind the same few methods (`PandasFrames`); that cuDF has the names
and keywords that are used is what the contract lane shows.
"""

from __future__ import annotations

import decimal
import gzip
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ouroflow.errors import InputError, OuroflowError, UsageError
from ouroflow.graph_gpu import DeviceGraph
from ouroflow.ledger import Ledger, gpu, gpu_columns, gpu_frames
from ouroflow.ledger import read_ledger as read_on_cpu
from simt.host import HostAccelerator
from simt.strict import DeviceArray, Module
from test_ledger import FILES
from test_ledger_bad_input import BAD_FILES, write_csv, write_dates, write_integers, write_other, write_steps

pytestmark = pytest.mark.host

BY_PANDAS = "read on the host lane by pandas"
BY_CPU = "read on the CPU, not on the host lane: "


class _Column(pandas.Series):
    """A column that is indexed by arrays of the lane, as one of cuDF is by CuPy's."""

    @property
    def _constructor(self) -> type[pandas.Series]:
        return type(self)

    def take(self, indices: Any) -> pandas.Series:
        return super().take(indices.get())


class _Frame(pandas.DataFrame):
    """A frame of such columns."""

    @property
    def _constructor_sliced(self) -> type[pandas.Series]:
        return _Column


class _Shuffled(_Column):
    """A column whose distinct values come in another order than that of first appearance."""

    def factorize(self, *_: Any) -> tuple[np.ndarray, pandas.Index]:
        codes, distinct = super().factorize()
        order = np.argsort(np.arange(len(distinct)) * 7919 % 10007, kind="stable")
        return np.append(np.argsort(order), -1)[codes], distinct[order]


class PandasFrames(gpu_frames.Frames):
    """pandas on NumPy arrays, with Arrow columns, in the place of cuDF.

    `shuffled` makes ``factorize`` number in another order than that of first appearance, which a library is free to do.
    """

    def __init__(self, *, shuffled: bool = False) -> None:
        self.name = "pandas"
        column = _Shuffled if shuffled else _Column
        self.module = SimpleNamespace(
            concat=lambda *parts, **how: column(pandas.concat(*parts, **how)),
            Series=column,
            read_csv=lambda *text, **how: _Frame(pandas.read_csv(*text, **how)),
        )
        self.lane = Module()
        self.read: list[tuple[str, int]] = []

    def read_row_groups(self, path: str, columns: Sequence[str], groups: Sequence[int]) -> pandas.DataFrame:
        with pq.ParquetFile(path) as file:
            table = file.read_row_groups(list(groups), columns=list(columns))
        self.read.append((path, table.num_rows))
        arrays = {name: _decoded(table[name]) for name in table.column_names}
        return _Frame({name: pandas.Series(array, dtype=_dtype(array)) for name, array in arrays.items()})

    def read_lines(self, text: bytes, dialect: Any, columns: Sequence[str]) -> pandas.DataFrame:
        frame = super().read_lines(text, dialect, columns)
        self.read.append(("", len(frame)))
        return frame

    def array(self, values: Any) -> DeviceArray:
        if isinstance(values, pandas.Series):
            kind = {"i": np.int64, "u": np.uint64, "f": np.float64, "b": np.bool_}[values.dtype.kind]
            return self.lane.from_host(values.to_numpy(dtype=kind))
        return self.lane.from_host(np.asarray(values))

    def unscaled(self, column: pandas.Series) -> DeviceArray:
        array = self.on_host(column).cast(pa.decimal128(38, column.dtype.pyarrow_dtype.scale))
        words = np.frombuffer(array.buffers()[1], np.int64).reshape(-1, 2)
        return self.lane.from_host(words[array.offset : array.offset + len(array)])

    def on_host(self, column: pandas.Series) -> pa.Array:
        array = pa.array(column, from_pandas=True)
        return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _decoded(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    array = array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
    return array.cast(pa.large_string()) if gpu_columns.is_text(array.type) else array


def _dtype(array: pa.Array) -> Any:
    return pandas.ArrowDtype(array.type)


def read_on_device(
    source: Any, *, memory: int = 1 << 34, frames: PandasFrames | None = None, **settings: Any
) -> Ledger:
    return gpu.read_ledger(HostAccelerator(memory=memory), source, frames=frames or PandasFrames(), **settings)


def assert_same(device: Ledger, host: Ledger) -> None:
    """Compare every field; the device says in one more note how it read."""
    assert device.on is None or device.notes[-1].startswith("read on ")
    for field in fields(Ledger):
        ours, theirs = getattr(device.host, field.name), getattr(host, field.name)
        if isinstance(theirs, np.ndarray):
            assert isinstance(ours, np.ndarray) and ours.dtype == theirs.dtype, field.name
            assert np.array_equal(ours, theirs), field.name
        elif isinstance(theirs, pa.DictionaryArray):
            assert ours.to_pylist() == theirs.to_pylist(), field.name
        elif field.name == "notes":
            assert ours[:-1] == theirs
        elif hasattr(theirs, "equals"):
            assert theirs.equals(ours), field.name
        else:
            assert ours == theirs, field.name


def both(source: Any, how: str = BY_PANDAS, **settings: Any) -> Ledger:
    """Read with both twins, compare, and return what the device gives."""
    options = {name: settings.pop(name) for name in ("memory", "frames") if name in settings}
    device = read_on_device(source, **options, **settings)
    assert_same(device, read_on_cpu(source, **settings))
    assert device.notes[-1].startswith(how), device.notes
    return device


# --- clean input ----------------------------------------------------------------------------------------------------

NAMES = ["주식회사 가나", "🏦", "Ünïted", "=1+1", "a b", "x" * 40, "0", " padded", "A", "a"]
ROWS = 700
TEXTS = np.random.default_rng(7).integers(0, len(NAMES), (2, ROWS))
CENTS = np.random.default_rng(8).integers(1, 10**7, ROWS)


def named(side: int) -> list[str]:
    return [NAMES[k] for k in TEXTS[side]]


IDENTITIES: dict[str, Callable[[], tuple[pa.Array, pa.Array]]] = {
    "text": lambda: (pa.array(named(0)), pa.array(named(1))),
    "large text": lambda: (pa.array(named(0), pa.large_string()), pa.array(named(1), pa.large_string())),
    "text in dictionaries": lambda: (pa.array(named(0)).dictionary_encode(), pa.array(named(1)).dictionary_encode()),
    "int64": lambda: (pa.array(TEXTS[0] * 10**12 - 5), pa.array(TEXTS[1] * 10**12 - 5)),
    "int32 and uint8": lambda: (pa.array(TEXTS[0], pa.int32()), pa.array(TEXTS[1], pa.uint8())),
    "uint64": lambda: (pa.array(TEXTS[0], pa.uint64()), pa.array(TEXTS[1], pa.uint64())),
}
AMOUNTS: dict[str, Callable[[], pa.Array]] = {
    "int64": lambda: pa.array(CENTS),
    "uint64": lambda: pa.array(CENTS, pa.uint64()),
    "int16": lambda: pa.array(CENTS % 30_000 + 1, pa.int16()),
    "decimals of 2 places": lambda: pa.array([decimal.Decimal(int(c)) / 100 for c in CENTS], pa.decimal128(12, 2)),
    "decimals of 5 places": lambda: pa.array([decimal.Decimal(int(c)) / 1000 for c in CENTS], pa.decimal128(20, 5)),
    "decimals of 18 places": lambda: pa.array(
        [decimal.Decimal(int(c) % 9 + 1) + decimal.Decimal(int(c)).scaleb(-18) for c in CENTS], pa.decimal128(25, 18)
    ),
    "short decimals": lambda: pa.array([decimal.Decimal(int(c)) / 100 for c in CENTS], pa.decimal64(12, 2)),
    "float64": lambda: pa.array(CENTS / 100),
    "float64 of many digits": lambda: pa.array(CENTS / 7),
    "float64 between two cents": lambda: pa.array(CENTS / 1000),
    "float64 past 15 digits": lambda: pa.array(CENTS * 79_190_001 / 100),
    "float32": lambda: pa.array((CENTS / 100).astype(np.float32)),
    "text": lambda: pa.array([f"{c / 100:.2f}" for c in CENTS]),
    "text of other forms": lambda: pa.array(
        [(f"{c}", f" {c}.0", f"+{c}e-1", f"{c}.125", f"0{c}")[c % 5] for c in CENTS]
    ),
}
TIMES: dict[str, Callable[[], pa.Array]] = {
    "nanoseconds": lambda: pa.array(CENTS * 10**9, pa.timestamp("ns")),
    "seconds of Seoul": lambda: pa.array(CENTS, pa.timestamp("s", "Asia/Seoul")),
    "dates": lambda: pa.array((CENTS % 20_000).astype(np.int32), pa.date32()),
    "epoch seconds": lambda: pa.array(CENTS + 1_600_000_000),
    "epoch milliseconds": lambda: pa.array(CENTS + 1_600_000_000_000),
    "days as numbers": lambda: pa.array(20_250_101 + CENTS % 28),
    "steps": lambda: pa.array(CENTS % 744, pa.int32()),
    "text": lambda: pa.array([f"2025-{1 + c % 12:02}-{1 + c % 28:02}" for c in CENTS]),
    "text with zones": lambda: pa.array([f"2025-01-{1 + c % 28:02}T12:00:{c % 60:02}+09:00" for c in CENTS]),
    "text of seconds": lambda: pa.array([f"{c + 1_600_000_000}" for c in CENTS]),
    "text of days": lambda: pa.array([f"{20_250_101 + c % 28}" for c in CENTS]),
}


def table_of(**columns: pa.Array) -> pa.Table:
    payer, payee = IDENTITIES["text"]()
    return pa.table({"payer": payer, "payee": payee, "amount": pa.array(CENTS), **columns})


@pytest.mark.parametrize("kind", IDENTITIES)
def test_identities_of_every_type_get_the_ids_of_the_cpu_twin(kind: str, tmp_path: Path) -> None:
    payer, payee = IDENTITIES[kind]()
    pq.write_table(table_of(payer=payer, payee=payee), tmp_path / "p.parquet", row_group_size=50)
    both(tmp_path / "p.parquet")


@pytest.mark.parametrize("kind", AMOUNTS)
@pytest.mark.parametrize("decimals", [0, 2, 6])
def test_amounts_of_every_type_are_the_same_minor_units_with_the_same_rounding(
    kind: str, decimals: int, tmp_path: Path
) -> None:
    pq.write_table(table_of(amount=AMOUNTS[kind]()), tmp_path / "p.parquet", row_group_size=300)
    both(tmp_path / "p.parquet", decimals=decimals)


@pytest.mark.parametrize("kind", TIMES)
def test_times_of_every_type_are_the_same_moments(kind: str, tmp_path: Path) -> None:
    pq.write_table(table_of(time=TIMES[kind]()), tmp_path / "p.parquet", row_group_size=100)
    assert both(tmp_path / "p.parquet").time is not None


def write_text(path: Path, table: pa.Table, delimiter: str = ",") -> Path:
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    lines = [table.column_names, *([str(value) for value in row] for row in rows)]
    path.write_text("".join(delimiter.join(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("kind", ["int64", "decimals of 5 places", "float64 of many digits", "text of other forms"])
def test_csv_files_are_read_as_by_the_cpu_twin(kind: str, delimiter: str, tmp_path: Path) -> None:
    both(write_text(tmp_path / "p.csv", table_of(amount=AMOUNTS[kind]()), delimiter))


@pytest.mark.parametrize("kind", ["text", "text with zones", "text of seconds", "text of days", "steps"])
def test_times_of_csv_files_are_the_same_moments(kind: str, tmp_path: Path) -> None:
    assert both(write_text(tmp_path / "p.csv", table_of(time=TIMES[kind]()))).time is not None


@pytest.mark.parametrize("ending", ["", "\n", "\n\n\n"])
def test_the_last_line_counts_whatever_ends_it(ending: str, tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("payer,payee,amount\na,b,1\nb,c,2.5\nc,c,3" + ending)
    assert both(path).rows.self_payments == 1


def test_every_column_that_a_ledger_keeps_is_the_same(tmp_path: Path) -> None:
    optional = {
        "time": TIMES["nanoseconds"](),
        "id": pa.array([f"거래-{k}" for k in range(ROWS)]),
        "currency": pa.array([("usd", "USD ", " Usd")[k % 3] for k in range(ROWS)]),
        "status": pa.array([("done", None, "planned", "")[k % 4] for k in range(ROWS)]),
        "type": pa.array(np.arange(ROWS) % 5),
    }
    pq.write_table(table_of(**optional), tmp_path / "p.parquet", row_group_size=90)
    ledger = both(tmp_path / "p.parquet", frames=PandasFrames(shuffled=True), memory=200_000)
    assert ledger.currency == "USD" and ledger.payment_id is not None and ledger.kind is not None
    assert set(ledger.totals_by_status) == {"done", "(none)", "planned", ""}
    optional["status"] = pa.array([("done", "", "planned")[k % 3] for k in range(ROWS)])
    ledger = both(write_text(tmp_path / "p.csv", table_of(**optional)))
    assert set(ledger.totals_by_status) == {"done", "(none)", "planned"}


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_small_memory_is_worked_through_in_pieces_with_the_same_ids(shuffled: bool, tmp_path: Path) -> None:
    table = table_of(time=TIMES["dates"]())
    pq.write_table(table, tmp_path / "p.parquet", row_group_size=60)
    write_text(tmp_path / "p.csv", table)
    for name, memory in (("p.parquet", 160_000), ("p.csv", 70_000)):
        frames = PandasFrames(shuffled=shuffled)
        both(tmp_path / name, frames=frames, memory=memory)
        assert len(frames.read) >= 4 and sum(rows for _, rows in frames.read) == ROWS


def test_payments_that_would_fill_the_device_go_to_the_host_piece_by_piece(tmp_path: Path) -> None:
    table = table_of(status=pa.array(["done"] * ROWS))
    pq.write_table(table, tmp_path / "p.parquet", row_group_size=10)
    write_text(tmp_path / "p.csv", table)
    for name in ("p.parquet", "p.csv"):
        ledger = both(tmp_path / name, memory=22_000)
        assert ledger.on is None and ledger.graph().device == "cpu"
        assert both(tmp_path / name, memory=220_000).on is not None


def test_numbers_mean_the_same_times_however_the_pieces_fall(tmp_path: Path) -> None:
    seconds, days, steps, moments = 1_700_000_000, 20_250_101, 5, "2025-01-01"
    for first, second, how in (
        (seconds, seconds + 1, BY_PANDAS),
        (seconds, steps, BY_CPU),
        (steps, seconds, BY_CPU),
        (days, steps, BY_CPU),
        (days, 20_259_999, BY_CPU),
        (steps, steps + 1, BY_PANDAS),
        (str(seconds), moments, BY_CPU),
        (str(days), moments, BY_PANDAS),
        (moments, str(days), BY_PANDAS),
        (moments, moments, BY_PANDAS),
    ):
        table = pa.table({"payer": ["a", "b"] * 5, "payee": ["b", "a"] * 5, "amount": range(1, 11)})
        table = table.append_column("time", pa.array([first] * 5 + [second] * 5))
        pq.write_table(table, tmp_path / "p.parquet", row_group_size=5)
        both(tmp_path / "p.parquet", how, memory=12_000, on_bad_rows="reject")


def test_several_files_are_one_input(tmp_path: Path) -> None:
    table = table_of()
    pq.write_table(table.slice(0, 300), tmp_path / "1.parquet")
    write_text(tmp_path / "2.csv", table.slice(300, 200))
    pq.write_table(table.slice(500), tmp_path / "3.parquet", row_group_size=64)
    pq.write_table(table.slice(0, 0), tmp_path / "4.parquet")
    ledger = both(tmp_path)
    assert ledger.file_offsets.tolist() == [0, 300, 500, 700, 700]
    everything = np.arange(len(ledger))
    assert ledger.where(everything) == read_on_cpu(tmp_path).where(everything)
    assert "a copy of" in " ".join(both([tmp_path / "1.parquet", _copy(tmp_path / "1.parquet")]).notes)


def _copy(path: Path) -> Path:
    copy = path.with_name("copy.parquet")
    copy.write_bytes(path.read_bytes())
    return copy


def test_settings_that_change_nothing_in_clean_input_are_kept(tmp_path: Path) -> None:
    path = write_text(tmp_path / "p.csv", table_of())
    both(path, on_bad_rows="reject", reversals="flip", decimals=4)
    both(path, payer="payee", payee="payer", amount="")
    both(path, boundary={"company": ["A", "nobody"], "inflow": ["1.5", "2"], "outflow": ["", "3"]})
    path.write_text("1\t2\n2\t1\n3\t3\n")  # no header, no amounts
    both(path)


def test_names_that_only_device_text_could_confuse_stay_apart(tmp_path: Path) -> None:
    names = [
        "NA",
        "null",
        "nan",
        "NaN",
        "None",
        "-",
        "a\0b",
        "a",
        "1",
        "01",
        "1.0",
        "é",
        "e\u0301",
        "a ",
        "\ufeffa",
        "ß",
    ]
    table = pa.table({"payer": names, "payee": names[1:] + names[:1], "amount": range(1, len(names) + 1)})
    pq.write_table(table, tmp_path / "p.parquet")
    assert len(both(tmp_path / "p.parquet").companies) == len(names)
    write_text(tmp_path / "p.csv", table.filter(pa.array(["\0" not in name for name in names])).slice(0, 5))
    both(tmp_path / "p.csv")


def test_sums_pass_int64_only_where_the_cpu_twin_says_so(tmp_path: Path) -> None:
    largest = 2**63 - 1
    pq.write_table(
        pa.table({"payer": ["a", "b"], "payee": ["a", "b"], "amount": [largest] * 2}), tmp_path / "p.parquet"
    )
    both_refuse(tmp_path / "p.parquet", decimals=0)
    table = pa.table({"payer": ["a", "b", "a"], "payee": ["a", "b", "b"], "amount": [largest, largest, 1]})
    pq.write_table(table, tmp_path / "p.parquet")
    assert both(tmp_path / "p.parquet", decimals=0).self_amount == 2 * largest
    both_refuse(tmp_path / "p.parquet", decimals=1)
    for wraps_round in (1_844_674_407_370_955_162, -1_844_674_407_370_955_161):  # times 10 they would be 4 and 6
        pq.write_table(pa.table({"payer": ["a"], "payee": ["b"], "amount": [wraps_round]}), tmp_path / "p.parquet")
        assert "amount too large" in both_refuse(tmp_path / "p.parquet", decimals=1)


def test_the_graph_of_a_ledger_lies_where_the_ledger_says(tmp_path: Path) -> None:
    path = write_text(tmp_path / "p.csv", table_of())
    on = HostAccelerator()
    for ledger in (both(path), read_on_device(path, entities={"company": ["A"], "parent": ["a"]})):
        graph, expected = ledger.graph(ledger.on or on), ledger.host.graph()
        assert isinstance(graph, DeviceGraph) and graph.on is (ledger.on or on)
        assert ledger.on is None or ledger.graph().device == "gpu"
        assert np.array_equal(graph.host.amount, expected.amount) and np.array_equal(graph.host.payee, expected.payee)
        assert (graph.self_payments, graph.self_amount) == (expected.self_payments, expected.self_amount)
        assert graph.self_payments > 0


WORDS = st.text(st.sampled_from("ab가🏦 \tx0"), max_size=4)


@settings(max_examples=60)
@given(
    rows=st.lists(st.tuples(WORDS, WORDS, st.integers(-3, 10**15)), min_size=1, max_size=40),
    kind=st.sampled_from(["int64", "float64", "decimal", "text"]),
    places=st.integers(0, 6),
    decimals=st.integers(0, 6),
    group=st.integers(1, 20),
    shuffled=st.booleans(),
)
def test_any_small_table_gives_the_same_ledger_or_the_same_message(
    rows: list[tuple[str, str, int]], kind: str, places: int, decimals: int, group: int, shuffled: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    numbers = [decimal.Decimal(number).scaleb(-places) for *_, number in rows]
    amount = {
        "int64": lambda: pa.array([number for *_, number in rows]),
        "float64": lambda: pa.array([float(number) for number in numbers]),
        "decimal": lambda: pa.array(numbers, pa.decimal128(25, places)),
        "text": lambda: pa.array([f"{number:f}" for number in numbers]),
    }[kind]()
    table = pa.table({"payer": [row[0] for row in rows], "payee": [row[1] for row in rows], "amount": amount})
    path = tmp_path_factory.mktemp("any") / "p.parquet"
    pq.write_table(table, path, row_group_size=group)
    settings = {"decimals": decimals}
    try:
        expected = read_on_cpu(path, **settings)
    except InputError:
        both_refuse(path, **settings)
        return
    device = read_on_device(path, frames=PandasFrames(shuffled=shuffled), memory=40_000, **settings)
    assert_same(device, expected)
    clean = all(payer.strip() and payee.strip() for payer, payee, _ in rows)
    assert not clean or device.notes[-1].startswith(BY_PANDAS), device.notes


# --- what is left to the CPU twin -----------------------------------------------------------------------------------


def both_refuse(source: Any, **settings: Any) -> str:
    """Read with both twins; both must refuse with the same words."""
    said = []
    for read in (read_on_cpu, read_on_device):
        with pytest.raises(OuroflowError) as caught:
            read(source, **settings)
        said.append((type(caught.value), str(caught.value)))
    assert said[0] == said[1]
    return said[0][1]


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_ledger(name: str, tmp_path: Path) -> None:
    FILES[name](tmp_path / name)
    plain = ("p.parquet", "p.csv", "p.tsv", "semicolons.csv", "no-newline-at-the-end.csv")
    both(tmp_path / name, BY_PANDAS if name in plain else BY_CPU)


@pytest.mark.parametrize("name", [name for name in BAD_FILES if name != "sum.csv"])
def test_bad_files_are_refused_in_the_words_of_the_cpu_twin(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(BAD_FILES[name][0])
    assert name in both_refuse(tmp_path / name)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (write_csv, write_integers),
        (write_integers, write_csv),
        (write_integers, write_other),
        (write_steps, write_dates),
    ],
)
def test_files_that_do_not_go_together_are_refused_alike(
    first: Callable[[Path], None], second: Callable[[Path], None], tmp_path: Path
) -> None:
    ending = {write_csv: "csv", write_steps: "csv", write_dates: "csv"}
    paths = [tmp_path / f"{k}.{ending.get(write, 'parquet')}" for k, write in enumerate((first, second))]
    for path, write in zip(paths, (first, second), strict=True):
        write(path)
    both_refuse(paths)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("payer", pa.array([1.5, 2.0])),
        ("payer", pa.array([b"a", b"b"])),
        ("payer", pa.array([1, 2])),
        ("payer", pa.nulls(2)),
        ("payer", pa.array(["a", None])),
        ("payee", pa.array(["a", "\u3000"])),
        ("payee", pa.array(["a", ""])),
        ("payee", pa.array([[1], [2]])),
        ("amount", pa.array([True, False])),
        ("amount", pa.nulls(2)),
        ("amount", pa.array([1, None])),
        ("amount", pa.array([1.0, float("nan")])),
        ("amount", pa.array([1.0, float("inf")])),
        ("amount", pa.array([1.0, 1e300])),
        ("amount", pa.array([1.0, -2.0])),
        ("amount", pa.array([1, 0])),
        ("amount", pa.array([0.001, 1.0])),
        ("amount", pa.array([2**63 - 1, 1])),
        ("amount", pa.array([2**64 - 1, 1], pa.uint64())),
        ("amount", pa.array([decimal.Decimal("1e30"), decimal.Decimal(1)], pa.decimal128(38, 2))),
        ("amount", pa.array([decimal.Decimal(2**64 + 500).scaleb(-2), decimal.Decimal(1)], pa.decimal128(38, 2))),
        ("amount", pa.array([decimal.Decimal("-1"), decimal.Decimal(1)], pa.decimal128(9, 2))),
        ("amount", pa.array(["1", "1\n2"])),
        ("amount", pa.array(["1", "1,5"])),
        ("amount", pa.array(["1", "٣"])),
        ("amount", pa.array(["1", "1" * 19])),
        ("amount", pa.array(["1", "1" * 25])),
        ("amount", pa.array(["1", "-0"])),
        ("time", pa.array([1, None])),
        ("time", pa.array(["2025-01-01", "31.12.2025"])),
        ("time", pa.array(["2025-01-01", ""])),
        ("time", pa.array([1.5, 2.0])),
        ("currency", pa.array(["USD", "EUR"])),
        ("currency", pa.array(["USD", " "])),
        ("currency", pa.array(["USD", None])),
    ],
)
def test_columns_that_cannot_be_used_are_refused_in_the_words_of_the_cpu_twin(
    column: str, values: pa.Array, tmp_path: Path
) -> None:
    table = pa.table({"payer": ["a", "b"], "payee": ["b", "a"], "amount": [1, 2]})
    place = table.column_names.index(column) if column in table.column_names else 3
    table = table.set_column(place, column, values) if place < 3 else table.append_column(column, values)
    pq.write_table(table, tmp_path / "p.parquet")
    both_refuse(tmp_path / "p.parquet")
    # Among good rows, and with bad rows set aside, both still agree.
    settings = {"on_bad_rows": "reject"} if column != "currency" else {"on_bad_rows": "reject", "currency": ""}
    try:
        expected = read_on_cpu(tmp_path / "p.parquet", **settings)
    except InputError:
        both_refuse(tmp_path / "p.parquet", **settings)
    else:
        assert_same(read_on_device(tmp_path / "p.parquet", **settings), expected)


def test_text_in_parquet_that_is_no_text_is_refused_in_the_words_of_the_cpu_twin(tmp_path: Path) -> None:
    wrong = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff\xfe", b"ok"]).buffers())
    for role in ("payer", "payee", "id", "status", "currency", "amount"):
        table = pa.table({"payer": ["a", "b"], "payee": ["b", "a"], "amount": [1, 2], role: wrong})
        pq.write_table(table, tmp_path / "p.parquet", use_dictionary=False)
        assert "no text" in both_refuse(tmp_path / "p.parquet") or role == "amount"


def test_numbers_of_companies_past_int64_and_mixtures_of_names_and_numbers_are_refused_alike(tmp_path: Path) -> None:
    large, small = pa.array([2**64 - 1, 1], pa.uint64()), pa.array([1, 2], pa.uint64())
    paths = [tmp_path / "1.parquet", tmp_path / "2.parquet"]
    pq.write_table(pa.table({"payer": large, "payee": small, "amount": [1, 2]}), paths[0])
    assert "past int64" in both_refuse(paths[0])
    for first, second in ((["1", "2"], [2, 1]), ([1, 2], ["2", "1"])):
        pq.write_table(pa.table({"payer": first, "payee": first[::-1], "amount": [1, 2]}), paths[0])
        pq.write_table(pa.table({"payer": second, "payee": second[::-1], "amount": [1, 2]}), paths[1])
        assert "earlier columns or files hold" in both_refuse(paths)


BAD_ROWS = "payer,payee,amount\na,b,5\nb,,3\nc,a,-2\na,c,x\nc,b,1\nb,b,4\n"
RATES = {"currency": ["EUR", "USD"], "rate": ["1.2", "1"]}


@pytest.mark.parametrize(
    ("text", "settings", "why"),
    [
        (BAD_ROWS, {"on_bad_rows": "reject"}, "is blank|zero or negative|no number"),
        (BAD_ROWS, {"on_bad_rows": "reject", "reversals": "flip"}, "is blank|zero or negative|no number"),
        ("payer,payee,amount\na,b,5\nb,a,-2\n", {"reversals": "flip"}, "zero or negative"),
        ("payer,payee,amount,status\na,b,5,x\nb,a,2,y\n", {"statuses": ["x"]}, "chosen statuses"),
        ("payer,payee,amount,currency\na,b,5,EUR\nb,a,2,USD\n", {"rates": RATES}, "rates are applied"),
        ("payer,payee,amount\na,b,5\nb,c,2\n", {"entities": {"company": ["c"], "parent": ["a"]}}, "merged entities"),
        ("payer,payee,amount,low,high\na,b,5,4,6\nb,a,2,1,3\n", {}, "announced ranges"),
        ("payer,payee,amount,time\na,b,5,20250131\nb,a,2,2025-02-01\n", {}, "first rows decide"),
        (
            "payer,payee,amount,time\na,b,5,19990101\nb,a,2,19990199\na,b,1,19990102\n",
            {"on_bad_rows": "reject"},
            "first rows",
        ),
        ('payer,payee,amount\n"a",b,5\nb,a,2\n', {}, "quotes"),
        ("payer,payee,amount\r\na,b,5\r\nb,a,2\r\n", {}, "plain lines"),
        ("payer,payee,amount\na,b,5\nb,a\n", {"on_bad_rows": "reject"}, "wrong number of fields"),
        ("payer,payee,amount\na,b,5\nb,a,1,1\nb,a\n", {"on_bad_rows": "reject"}, "wrong number of fields"),
        ("payer,payee,amount,note\na,b,5," + "x" * (2 << 20) + "\nb,a,1,\n", {}, "very long line"),
    ],
)
def test_what_needs_a_look_at_single_rows_is_left_to_the_cpu_twin(
    text: str, settings: dict[str, Any], why: str, tmp_path: Path
) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text)
    ledger = both(path, BY_CPU, **settings)
    assert pytest.importorskip("re").search(why, ledger.notes[-1]), ledger.notes


def test_other_sources_than_files_are_read_by_the_cpu_twin(tmp_path: Path) -> None:
    both(table_of(), BY_CPU)
    both([table_of(), table_of().to_pandas()], BY_CPU)
    (tmp_path / "p.csv").write_text("payer,payee,amount\na,b,1\n")
    both((tmp_path / "p.csv").as_uri(), BY_CPU)
    (tmp_path / "p.csv.gz").write_bytes(gzip.compress(b"payer,payee,amount\na,b,1\n"))
    both(tmp_path / "p.csv.gz", BY_CPU)


def test_a_row_group_that_the_device_cannot_hold_is_read_by_the_cpu_twin_and_said_so(tmp_path: Path) -> None:
    pq.write_table(table_of(), tmp_path / "p.parquet")
    ledger = both(tmp_path / "p.parquet", BY_CPU, memory=50_000)
    assert "row group 0" in ledger.notes[-1] and "MB are free" in ledger.notes[-1]


class _Broken(PandasFrames):
    """A library that fails as libraries do."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def read_row_groups(self, path: str, columns: Sequence[str], groups: Sequence[int]) -> pandas.DataFrame:
        if groups[0] == 0:
            return super().read_row_groups(path, columns, groups)
        raise self.error


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDF failure at:\n reader.cu"), MemoryError(), NotImplementedError("x")]
)
def test_what_the_library_cannot_read_is_read_by_the_cpu_twin_from_its_beginning(
    error: Exception, tmp_path: Path
) -> None:
    pq.write_table(table_of(), tmp_path / "p.parquet", row_group_size=100)
    ledger = both(tmp_path / "p.parquet", BY_CPU, frames=_Broken(error))
    assert str(error).split("\n")[0] in ledger.notes[-1] and "\n" not in ledger.notes[-1]


def test_a_library_that_counts_other_rows_is_not_believed(tmp_path: Path) -> None:
    class Short(PandasFrames):
        def read_row_groups(self, path: str, columns: Sequence[str], groups: Sequence[int]) -> pandas.DataFrame:
            return super().read_row_groups(path, columns, groups).iloc[1:]

        def read_lines(self, text: bytes, dialect: Any, columns: Sequence[str]) -> pandas.DataFrame:
            return super().read_lines(text, dialect, columns).iloc[1:]

    pq.write_table(table_of(), tmp_path / "p.parquet")
    write_text(tmp_path / "p.csv", table_of())
    for name in ("p.parquet", "p.csv"):
        assert "finds 699 rows where" in both(tmp_path / name, BY_CPU, frames=Short()).notes[-1]


def test_without_cudf_the_cpu_twin_reads_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Any:
        raise gpu_frames.LeftToCpu("cuDF is not there (No module named 'cudf')")

    monkeypatch.setattr(gpu, "CudfFrames", refuse)
    path = write_text(tmp_path / "p.csv", table_of())
    ledger = gpu.read_ledger(HostAccelerator(), path)
    assert_same(ledger, read_on_cpu(path))
    assert ledger.notes[-1] == f"{BY_CPU}cuDF is not there (No module named 'cudf')"


@pytest.mark.parametrize(
    "settings",
    [
        {"decimals": 19},
        {"reversals": "maybe"},
        {"statuses": "x"},
        {"payer": "nowhere"},
        {"payer": "payee", "payee": "payee"},
    ],
)
def test_settings_that_make_no_sense_are_refused_alike(settings: dict[str, Any], tmp_path: Path) -> None:
    both_refuse(write_text(tmp_path / "p.csv", table_of()), **settings)
    both_refuse(tmp_path / "nowhere.csv")
    with pytest.raises(UsageError):
        read_on_device([])


# --- cuDF itself, where there is a device ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def device() -> Any:
    from ouroflow.runtime.device import usable_gpu

    pytest.importorskip("cudf", reason="cuDF is not installed; without it pyarrow reads on the host")
    return usable_gpu()


def assert_cudf_reads(device: Any, path: Path, **settings: Any) -> None:
    ledger = gpu.read_ledger(device, path, **settings)
    assert_same(ledger, read_on_cpu(path, **settings))
    assert ledger.on is device and ledger.notes[-1].startswith(f"read on {device.name} by cuDF"), ledger.notes
    assert ledger.graph().device == "gpu"


@pytest.mark.gpu
@pytest.mark.parametrize("kind", IDENTITIES)
def test_cudf_gives_identities_of_every_type_the_same_ids(kind: str, device: Any, tmp_path: Path) -> None:
    payer, payee = IDENTITIES[kind]()
    pq.write_table(table_of(payer=payer, payee=payee), tmp_path / "p.parquet", row_group_size=50)
    assert_cudf_reads(device, tmp_path / "p.parquet")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", AMOUNTS)
def test_cudf_gives_amounts_of_every_type_the_same_minor_units(kind: str, device: Any, tmp_path: Path) -> None:
    pq.write_table(table_of(amount=AMOUNTS[kind]()), tmp_path / "p.parquet", row_group_size=300)
    for decimals in (0, 2, 6):
        assert_cudf_reads(device, tmp_path / "p.parquet", decimals=decimals)
    if "digits" not in kind:
        assert_cudf_reads(device, write_text(tmp_path / "p.csv", table_of(amount=AMOUNTS[kind]())))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", TIMES)
def test_cudf_gives_times_of_every_type_the_same_moments(kind: str, device: Any, tmp_path: Path) -> None:
    pq.write_table(table_of(time=TIMES[kind]()), tmp_path / "p.parquet", row_group_size=100)
    assert_cudf_reads(device, tmp_path / "p.parquet")


@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name in BAD_FILES if name != "sum.csv"])
def test_cudf_changes_no_message_about_bad_files(name: str, device: Any, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(BAD_FILES[name][0])
    with pytest.raises(InputError) as expected:
        read_on_cpu(tmp_path / name)
    with pytest.raises(InputError) as found:
        gpu.read_ledger(device, tmp_path / name)
    assert str(found.value) == str(expected.value)


@pytest.mark.gpu
def test_cudf_keeps_every_column_and_every_blank(device: Any, tmp_path: Path) -> None:
    table = table_of(
        id=pa.array([f"거래-{k}" for k in range(ROWS)]),
        currency=pa.array([("usd", "USD ", " Usd")[k % 3] for k in range(ROWS)]),
        status=pa.array([("done", "", "planned ")[k % 3] for k in range(ROWS)]),
        type=pa.array(np.arange(ROWS) % 5),
    )
    (tmp_path / "amount=7").mkdir()  # of a file in such a folder cuDF might make a column
    pq.write_table(table, tmp_path / "amount=7" / "p.parquet", row_group_size=90)
    assert_cudf_reads(device, tmp_path / "amount=7" / "p.parquet")
    assert_cudf_reads(device, write_text(tmp_path / "p.csv", table))
    names = ["NA", "null", "nan", "NaN", "None", "-", "a", "1", "01", "1.0", "é", "e\u0301", "a ", " a", "\ufeffa", "ß"]
    table = pa.table({"payer": names, "payee": names[1:] + names[:1], "amount": range(1, len(names) + 1)})
    assert_cudf_reads(device, write_text(tmp_path / "names.csv", table))
