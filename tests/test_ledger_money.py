"""Amounts, times and the small tables: exactly as written, or refused with a message that helps."""

from __future__ import annotations

import datetime
import gzip
import math
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ouroflow.errors import InputError, UsageError
from ouroflow.ledger import money
from ouroflow.ledger.money import Minor, apply_rates, to_minor
from ouroflow.ledger.schema import (
    MISSING_AMOUNT,
    MISSING_CURRENCY,
    NO_RATE,
    NOT_A_NUMBER,
    NOT_FINITE,
    TOO_LARGE,
    USED,
)
from ouroflow.ledger.tables import read_boundary, read_entities, read_rates
from ouroflow.ledger.times import to_times

EXACT = Context(prec=2000, rounding=ROUND_HALF_EVEN)
PLACES = st.integers(0, 18)


def reasons(minor: Minor) -> list[int]:
    return [USED] * len(minor.values) if minor.reason is None else minor.reason.tolist()


def rounded(number: Decimal, decimals: int) -> int | None:
    """Return minor units by the decimal module; None: too large."""
    whole = int(number.scaleb(decimals, EXACT).to_integral_value(ROUND_HALF_EVEN, EXACT))
    return whole if abs(whole) < 2**63 else None


def check(minor: Minor, written: list[Decimal], decimals: int, as_floats: bool = False) -> None:
    expected = [rounded(number, decimals) for number in written]
    assert reasons(minor) == [TOO_LARGE if whole is None else USED for whole in expected]
    assert minor.values.dtype == np.int64
    assert minor.values.tolist() == [whole or 0 for whole in expected]
    difference = Fraction(0)
    for number, whole in zip(written, expected, strict=True):
        exact = Fraction(number) * 10**decimals
        if whole is None or exact == whole:
            continue
        difference += whole - (Fraction(float(number)) * 10**decimals if as_floats else exact)
    assert minor.rounding == difference


# --- amounts ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-999, 999)), PLACES)
def test_integers_are_exact_or_too_large(numbers: list[int], decimals: int) -> None:
    check(to_minor(pa.array(numbers, pa.int64()), decimals), [Decimal(n) for n in numbers], decimals)


@given(st.lists(st.integers(0, 2**64 - 1)), PLACES)
def test_unsigned_integers_are_exact_or_too_large(numbers: list[int], decimals: int) -> None:
    check(to_minor(pa.array(numbers, pa.uint64()), decimals), [Decimal(n) for n in numbers], decimals)


@pytest.mark.parametrize("kind", [pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16(), pa.uint32()])
def test_narrow_integers_do_not_overflow(kind: pa.DataType) -> None:
    assert to_minor(pa.array([100, None, 0], kind), 16).values.tolist() == [10**18, 0, 0]


def test_the_limits_of_int64() -> None:
    numbers = [2**63 - 1, -(2**63 - 1), -(2**63)]
    minor = to_minor(pa.array(numbers, pa.int64()), 0)
    assert minor.values.tolist() == [2**63 - 1, -(2**63 - 1), 0]
    assert reasons(minor) == [USED, USED, TOO_LARGE]
    texts = ["92233720368547758.07", "92233720368547758.08", "-92233720368547758.07", "92233720368547758.075", "9e30"]
    minor = to_minor(pa.array(texts), 2)
    assert minor.values.tolist() == [2**63 - 1, 0, -(2**63 - 1), 0, 0]
    assert reasons(minor) == [USED, TOO_LARGE, USED, TOO_LARGE, TOO_LARGE]


@given(st.lists(st.integers(-(10**38) + 1, 10**38 - 1) | st.integers(-(10**6), 10**6)), st.integers(-3, 38), PLACES)
def test_decimals_are_exact(numbers: list[int], scale: int, decimals: int) -> None:
    assume(scale >= 0 or all(abs(n) < 10**35 for n in numbers))  # pa.array refuses more digits at negative scales
    written = [Decimal(n).scaleb(-scale, EXACT) for n in numbers]
    for kind in (pa.decimal128(38, scale), pa.decimal256(60, scale)):
        column = pa.array(written, kind)
        check(to_minor(column, decimals), written, decimals)
        check(to_minor(column[1:], decimals), written[1:], decimals)


def test_decimals_with_nulls() -> None:
    minor = to_minor(pa.array([Decimal("1.005"), None, Decimal("-1.015")], pa.decimal128(38, 3)), 2)
    assert minor.values.tolist() == [100, 0, -102]
    assert reasons(minor) == [USED, MISSING_AMOUNT, USED]
    assert minor.rounding == Fraction(-1, 2) + Fraction(-1, 2)


FINITE = st.floats(allow_nan=False, allow_infinity=False)
NEAR_TIES = st.builds(lambda n, k: float(Decimal(2 * n + 1) / 2 / 10**k), st.integers(-(10**12), 10**12), PLACES)
WRITTEN = st.builds(lambda n, k: float(Decimal(n).scaleb(-k)), st.integers(-(10**17), 10**17), PLACES)


@given(st.lists(FINITE | NEAR_TIES | WRITTEN | st.floats(-1e20, 1e20)), PLACES)
def test_floats_are_rounded_as_their_shortest_decimal(numbers: list[float], decimals: int) -> None:
    check(to_minor(pa.array(numbers, pa.float64()), decimals), [Decimal(repr(x)) for x in numbers], decimals, True)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)), st.integers(0, 6))
def test_single_floats_too(numbers: list[float], decimals: int) -> None:
    written = [Decimal(str(np.float32(x))) for x in numbers]
    check(to_minor(pa.array(numbers, pa.float32()), decimals), written, decimals, True)


@pytest.mark.parametrize(
    ("number", "cents"), [(1.005, 100), (0.285, 28), (2.675, 268), (0.125, 12), (0.375, 38), (-1.005, -100)]
)
def test_ties_of_floats_go_to_the_even_cent(number: float, cents: int) -> None:
    assert to_minor(pa.array([number]), 2).values.tolist() == [cents]


def test_floats_that_are_whole_cents_make_no_difference() -> None:
    cents = np.random.default_rng(1).integers(-(10**15), 10**15, 100_000)
    minor = to_minor(pa.array(cents / 100), 2)
    assert np.array_equal(minor.values, cents)
    assert minor.reason is None
    assert minor.rounding == 0


def test_the_rounding_of_many_floats_is_exact() -> None:
    numbers = np.random.default_rng(2).lognormal(0, 3, 70_000)
    minor = to_minor(pa.array(numbers), 2)
    assert minor.rounding == sum(minor.values.tolist()) - sum(map(Fraction, numbers.tolist())) * 100


def test_floats_that_are_no_numbers() -> None:
    minor = to_minor(pa.array([math.nan, math.inf, -math.inf, None, 1e300, 9.3e16, 1.0]), 2)
    assert reasons(minor) == [NOT_FINITE] * 3 + [MISSING_AMOUNT] + [TOO_LARGE] * 2 + [USED]
    assert minor.values.tolist() == [0] * 6 + [100]
    assert minor.rounding == 0


NUMBERS = st.from_regex(r"[+-]?([0-9]{1,25}(\.[0-9]{0,22})?|\.[0-9]{1,22})([eE][+-]?[0-9]{1,3})?", fullmatch=True)
SHORT = st.from_regex(r"[+-]?[0-9]{1,9}\.[0-9]{1,9}", fullmatch=True)
ODD = st.sampled_from(["", " ", "\t\n", "nan", "-NaN", "+inf", "Infinity", "1,000.00", "$5", "1e", ".", "-", "+.", "e5",
                       "1.2.3", "--1", "1 2", "0x10", "1_000", "٣", "1e99999", "\u00a01", "1" * 2000])  # fmt: skip
BLANK = st.sampled_from(["", " ", "\t", "  \r\n"])


@given(st.lists(st.tuples(BLANK, NUMBERS | SHORT, BLANK)), PLACES)
def test_text_is_read_exactly(cells: list[tuple[str, str, str]], decimals: int) -> None:
    written = [Decimal(number) for _, number, _ in cells]
    check(to_minor(pa.array(["".join(cell) for cell in cells], pa.string()), decimals), written, decimals)


@given(st.lists(st.none() | NUMBERS | SHORT | ODD | st.text(), min_size=1), PLACES)
def test_the_compiled_reader_agrees_with_python(cells: list[str | None], decimals: int) -> None:
    plain = to_minor(pa.array(cells, pa.string()), decimals)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(money, "_COMPILED_FROM", 0)
        for kind in (pa.string(), pa.large_string(), pa.string_view()):
            compiled = to_minor(pa.array([*cells, "7"], kind)[: len(cells)], decimals)
            assert compiled.values.tolist() == plain.values.tolist()
            assert reasons(compiled) == reasons(plain)
            assert compiled.rounding == plain.rounding
            assert to_minor(pa.array(cells, kind)[1:], decimals).values.tolist() == plain.values.tolist()[1:]


def test_text_that_is_no_number() -> None:
    cells = [
        "1,000",
        "€5",
        "",
        "  ",
        None,
        "NaN",
        "-inf",
        "1e5",
        " +.5 ",
        "5.",
        "1" * 2000,
        "1e-9999",
        "0e9999",
        "1e9999",
    ]
    minor = to_minor(pa.array(cells), 2)
    assert reasons(minor) == [
        NOT_A_NUMBER, NOT_A_NUMBER, MISSING_AMOUNT, MISSING_AMOUNT, MISSING_AMOUNT, NOT_FINITE, NOT_FINITE,
        USED, USED, USED, NOT_A_NUMBER, USED, USED, TOO_LARGE,
    ]  # fmt: skip
    assert minor.values.tolist() == [0] * 7 + [10**7, 50, 500, 0, 0, 0, 0]
    assert minor.rounding == -Fraction(1, 10**9997)


def test_large_columns_of_text() -> None:
    cells = [f"{row}.{row % 1000:03}" for row in range(50_000)]
    minor = to_minor(pa.chunked_array([cells[:20_000], cells[20_000:]]), 2)
    check(minor, [Decimal(cell) for cell in cells], 2)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["1.5", None, "x", "1.5"]).dictionary_encode(), [USED, MISSING_AMOUNT, NOT_A_NUMBER, USED]),
        (pa.array([True, None]), [NOT_A_NUMBER, MISSING_AMOUNT]),
        (pa.array([None, None]), [MISSING_AMOUNT, MISSING_AMOUNT]),
        (pa.array([datetime.date(2025, 1, 1)]), [NOT_A_NUMBER]),
        (pa.array([], pa.string()), []),
        (pa.array([], pa.float64()), []),
        (pa.array([], pa.decimal128(9, 2)), []),
    ],
)
def test_other_columns(column: pa.Array, expected: list[int]) -> None:
    assert reasons(to_minor(column, 2)) == expected


# --- rates ------------------------------------------------------------------------------------------------------------


def fine(values: list[int]) -> Minor:
    return Minor(np.array(values, dtype=np.int64), None, Fraction(1, 3))


RATES = st.decimals("0.000001", "1e6", allow_nan=False, allow_infinity=False)


@given(
    st.lists(st.tuples(st.integers(-(2**63) + 1, 2**63 - 1) | st.integers(-999, 999), st.sampled_from("ab"))),
    RATES,
    RATES,
)
def test_amounts_are_converted_exactly(rows: list[tuple[int, str]], first: Decimal, second: Decimal) -> None:
    rates = read_rates({"currency": ["A", "B"], "rate": [first, second]})
    got = apply_rates(
        fine([value for value, _ in rows]), pa.array([name for _, name in rows], pa.string()), None, rates
    )
    expected = [rounded(EXACT.multiply(value, {"a": first, "b": second}[name]), 0) for value, name in rows]
    assert got.values.tolist() == [whole or 0 for whole in expected]
    assert reasons(got) == [TOO_LARGE if whole is None else USED for whole in expected]


def test_rows_without_currency_or_rate_are_refused() -> None:
    rates = read_rates({"currency": ["USD", "EUR"], "rate": ["1", "1.10"]})
    assert rates.result == "USD"
    earlier = Minor(
        np.array([100, 100, 100, 0, 0], dtype=np.int64), np.array([0, 0, 0, 4, 9], dtype=np.uint8), Fraction(0)
    )
    got = apply_rates(earlier, pa.array(["eur ", None, "XXX", None, " "]), None, rates)
    assert got.values.tolist() == [110, 0, 0, 0, 0]
    assert reasons(got) == [USED, MISSING_CURRENCY, NO_RATE, MISSING_AMOUNT, MISSING_CURRENCY]
    same = apply_rates(fine([5, 6]), pa.array(["USD", "USD"]).dictionary_encode(), None, rates)
    assert same.values.tolist() == [5, 6]
    assert same.rounding == Fraction(1, 3)


def test_the_rate_is_that_of_the_latest_date_not_after_the_payment() -> None:
    rates = read_rates({"currency": ["EUR"] * 2, "rate": [2, 3], "date": ["2025-02-01", "2025-01-01"]})
    times = to_times(pa.array(["2024-12-31", "2025-01-01", "2025-01-31 23:59", "2025-02-01", "2030-01-01"])).values
    got = apply_rates(fine([100] * 5), pa.array(["EUR"] * 5), times, rates)
    assert got.values.tolist() == [0, 300, 300, 200, 200]
    assert reasons(got) == [NO_RATE, USED, USED, USED, USED]
    with pytest.raises(InputError, match=r"EUR by date, but the payments have no time.*--time"):
        apply_rates(fine([1]), pa.array(["EUR"]), None, rates)


def test_a_rate_without_date_holds_from_the_beginning() -> None:
    rates = read_rates({"currency": ["EUR", "EUR"], "rate": [2.5, 3.0], "date": [None, datetime.date(2025, 1, 1)]})
    assert rates.rate("eur", 0) == Fraction(5, 2)
    assert rates.rate("EUR", 2 * 10**18) == 3
    assert rates.rate("JPY", 0) is None


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("currency,rate\nEUR,0\n", r"row 1: the rate of EUR is '0', and must be a positive number"),
        ("currency,rate\nEUR,1\nJPY,-2\n", r"row 2: the rate of JPY"),
        ("currency,rate\nEUR,abc\n", r"row 1: the rate of EUR is 'abc'"),
        ("currency,rate\nEUR,nan\n", r"row 1: the rate of EUR is 'nan'"),
        ("currency,rate\nEUR,\n", r"row 1: the rate of EUR is ''"),
        ("currency,rate\n,2\n", r"row 1 names no currency"),
        ("currency,rate\nEUR,1\neur,2\n", r"row 2: a second rate of EUR without date: keep one"),
        ("currency,rate,date\nEUR,1,2025-01-01\nEUR,2,2025-01-01\n", r"row 2: a second rate of EUR at 2025-01-01"),
        ("currency,rate,date\nEUR,1,31/12/2025\n", r"row 1: '31/12/2025' is no date"),
        ("currency,rate,date\nEUR,1,17\n", r"row 1: '17' is no date"),
        ("currency,value\nEUR,1\n", r"no column 'rate': the rates need the columns currency, rate \[, date\]; found: "),
        ("currency,rate\n", r"has no rows"),
        ("", r"is empty"),
        ("currency,rate\nEUR,1,2\n", r"row 1 has 3 fields, the header 2: quote"),
        ("currency,rate,Rate\nEUR,1,2\n", r"two columns 'rate'"),
    ],
)
def test_what_is_wrong_with_rates(tmp_path: Path, table: str, message: str) -> None:
    path = tmp_path / "rates.csv"
    path.write_text(table)
    with pytest.raises(InputError, match=message) as caught:
        read_rates(path)
    assert str(path) in str(caught.value)


# --- the reader of small tables ---------------------------------------------------------------------------------------


def test_every_kind_of_small_table_reads_alike(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    polars = pytest.importorskip("polars")
    columns = {"Currency": ["EUR", "JPY"], " rate ": ["1.1", "0.0067"]}
    text = "Currency; rate \nEUR;1.1\n\nJPY;0.0067\n"
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "zipped.csv.gz").write_bytes(gzip.compress(text.encode()))
    pq.write_table(pa.table(columns), tmp_path / "rates.parquet")
    sources = [
        tmp_path / "bom.csv", str(tmp_path / "zipped.csv.gz"), tmp_path / "rates.parquet", columns, pa.table(columns),
        pandas.DataFrame(columns), polars.DataFrame(columns),
        polars.DataFrame(columns).with_columns(polars.col("Currency").cast(polars.Categorical)),
    ]  # fmt: skip
    for source in sources:
        rates = read_rates(source)
        assert {name: steps for name, (_, steps) in rates.table.items()} == {
            "EUR": [Fraction(11, 10)],
            "JPY": [Fraction(67, 10000)],
        }


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv: there is no such file to read the rates from"):
        read_rates(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes(b"currency,rate\n\xe9,1\n")
    with pytest.raises(InputError, match=r"latin\.csv is neither Parquet nor UTF-8"):
        read_rates(tmp_path / "latin.csv")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"broken\.parquet cannot be read"):
        read_rates(tmp_path / "broken.parquet")
    (tmp_path / "broken.csv.gz").write_bytes(b"currency,rate\nEUR,1\n")
    with pytest.raises(InputError, match=r"broken\.csv\.gz cannot be read"):
        read_rates(tmp_path / "broken.csv.gz")
    with pytest.raises(InputError, match=r"cannot be read as a table"):
        read_rates({"currency": ["EUR"], "rate": [1, 2]})
    with pytest.raises(UsageError, match=r"holds no table"):
        read_rates(42)


# --- entities ---------------------------------------------------------------------------------------------------------


def test_chains_of_parents_are_merged_in_the_order_of_first_appearance() -> None:
    entities = read_entities({"company": ["b", "a", "x", "g", "g"], "parent": ["a", "top", "", "top", "top"]})
    names, new_id = entities.merge(pa.array(["z", "b", "y", "a", "top", "g"]))
    assert names.to_pylist() == ["z", "top", "y"]
    assert new_id.tolist() == [0, 1, 2, 1, 1, 1]
    assert new_id.dtype == np.int64
    assert entities.unknown(pa.array(["b", "a"])) == ["g"]
    assert "1 of 3 companies" in str(entities.note(pa.array(["b", "a"])))
    assert entities.note(pa.array(["b", "a", "g"])) is None


def test_integer_companies_match_their_text(tmp_path: Path) -> None:
    (tmp_path / "entities.csv").write_text("company,parent\n7,3\n007,4\n")
    names, new_id = read_entities(tmp_path / "entities.csv").merge(pa.array([7, 5, 3]))
    assert names.type == pa.int64()
    assert names.to_pylist() == [3, 5]
    assert new_id.tolist() == [0, 1, 0]
    names, _ = read_entities({"company": [7, 5], "parent": [3, 9]}).merge(pa.array(["7", "007"], pa.large_string()))
    assert names.to_pylist() == ["3", "007"]
    names, _ = read_entities({"company": [7], "parent": ["Holding"]}).merge(pa.array([7, 5]))
    assert names.to_pylist() == ["Holding", "5"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "b"), ("b", "c"), ("c", "b")], r"row 2: the parents form a cycle: b -> c -> b\. Remove one"),
        ([("a", "b"), ("a", "c")], r"row 2: company 'a' has a second parent 'c', after 'b' in row 1: keep one"),
        ([("", "c")], r"row 1 names no company"),
    ],
)
def test_what_is_wrong_with_entities(rows: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_entities({"company": [row[0] for row in rows], "parent": [row[1] for row in rows]})


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 29)), unique_by=lambda row: row[0]))
def test_every_company_ends_at_the_top_of_its_chain(rows: list[tuple[int, int]]) -> None:
    parent = {child: above % child for child, above in rows}  # always smaller: no cycles
    names = list(range(31))
    expected = []
    for company in names:
        while company in parent:
            company = parent[company]
        expected.append(company)
    if parent:
        merged, new_id = read_entities({"company": list(parent), "parent": list(parent.values())}).merge(
            pa.array(names)
        )
        assert merged.take(pa.array(new_id)).to_pylist() == expected


def test_a_long_chain_is_followed_quickly() -> None:
    size = 50_000
    entities = read_entities({"company": list(range(size)), "parent": list(range(1, size + 1))})
    assert set(entities.top.values()) == {str(size)}


# --- boundary ---------------------------------------------------------------------------------------------------------


def test_external_flows_come_in_the_order_of_the_companies(tmp_path: Path) -> None:
    path = tmp_path / "boundary.csv"
    path.write_text("company,inflow,outflow\nb,1.25,\nc,,7\nelse,1,2\n")
    boundary = read_boundary(path, 2)
    inflow, outflow, unknown = boundary.align(pa.array(["a", "b", "c"]))
    assert inflow.tolist() == [0, 125, 0]
    assert outflow.tolist() == [0, 0, 700]
    assert unknown == ["else"]
    entities = read_entities({"company": ["b", "else"], "parent": ["c", "c"]})
    inflow, outflow, unknown = boundary.align(pa.array(["a", "c"]), entities)
    assert (inflow.tolist(), outflow.tolist(), unknown) == ([0, 225], [0, 900], [])
    inflow, outflow, unknown = read_boundary({"company": [7, 8], "inflow": [1.5, None]}, 2).align(pa.array([8, 7]))
    assert (inflow.tolist(), outflow.tolist(), unknown) == ([0, 150], [0, 0], [])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,-1,0", r"row 2: inflow '-1' is negative"),
        ("a,0,x", r"row 2: outflow 'x': amount not a number; amounts are plain numbers"),
        ("a,1e30,0", r"row 2: inflow '1e30': amount too large; .*lower decimals"),
        ("z,1,1", r"row 2: company 'z' is already in row 1: add the two up"),
        (" ,1,1", r"row 2 names no company"),
    ],
)
def test_what_is_wrong_with_a_boundary(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "boundary.csv"
    path.write_text(f"company,inflow,outflow\nz,1,1\n{row}\n")
    with pytest.raises(InputError, match=message):
        read_boundary(path, 2)


def test_a_boundary_needs_flows_that_fit() -> None:
    with pytest.raises(InputError, match=r"neither a column 'inflow' nor 'outflow'"):
        read_boundary({"company": ["a"]}, 2)
    with pytest.raises(InputError, match=r"passes 64-bit integers"):
        read_boundary({"company": ["a", "b"], "inflow": [2**62, 2**62]}, 0).align(pa.array(["a", "b"]))


# --- times ------------------------------------------------------------------------------------------------------------

MOMENT = int(datetime.datetime(2025, 1, 31, 13, 45, 10, tzinfo=datetime.UTC).timestamp()) * 10**9
DAY = int(datetime.datetime(2025, 1, 31, tzinfo=datetime.UTC).timestamp()) * 10**9


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2025-01-31", DAY),
        (" 2025/01/31 ", DAY),
        ("2025.01.31", DAY),
        ("2025-1-31", DAY),
        ("2025-01-31T13:45:10", MOMENT),
        ("2025-01-31 13:45:10", MOMENT),
        ("2025/01/31 13:45:10", MOMENT),
        ("2025/01/31 13:45", MOMENT - 10 * 10**9),
        ("20250131 13:45:10", MOMENT),
        ("2025-01-31T13:45:10Z", MOMENT),
        ("2025-01-31T22:45:10+09:00", MOMENT),
        ("2025-01-31T08:15:10-0530", MOMENT),
        ("2025-01-31 14:45:10 +01", MOMENT),
        ("2025-01-31 13:45:10.5", MOMENT + 5 * 10**8),
        ("2025-01-31 13:45:10.123456789", MOMENT + 123456789),
        ("2025-02-29", None),
        ("2025-13-01", None),
        ("2025-00-10", None),
        ("2025-01-31 24:00", None),
        ("2025-01-31 13:60", None),
        ("2025-01-31 13:45:60", None),
        ("2025-01-31T13:45:10+25:00", None),
        ("2025-01/31", None),
        ("31/01/2025", None),
        ("9999-12-31", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_times_as_text(text: str | None, time: int | None) -> None:
    # Alone and among others: columns of one form take another way than mixed ones.
    for column in ([text], [text, "no time"], [text, "2025-01-31", "2024/02/29 1:02"]):
        times = to_times(pa.array(column, pa.string()))
        assert times.unit == "ns"
        assert times.values[0] == (time or 0)
        assert (False if times.bad is None else times.bad[0]) == (time is None)


@given(st.lists(st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1)), min_size=1))
def test_text_and_timestamps_agree(moments: list[datetime.datetime]) -> None:
    expected = [
        (moment - datetime.datetime(1970, 1, 1)) // datetime.timedelta(microseconds=1) * 1000 for moment in moments
    ]
    stamps = to_times(pa.array(moments, pa.timestamp("us")))
    plain = to_times(pa.array([moment.isoformat(" ") for moment in moments], pa.large_string()))
    mixed = to_times(pa.array([moment.isoformat() for moment in moments] + ["?"]))
    slashed = to_times(pa.array([moment.strftime("%Y/%m/%d %H:%M:%S.%f") for moment in moments]).dictionary_encode())
    assert stamps.values.tolist() == plain.values.tolist() == slashed.values.tolist() == expected
    assert mixed.values.tolist() == [*expected, 0]
    assert stamps.bad is None and plain.bad is None and slashed.bad is None


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamps_of_every_unit_and_zone(unit: str) -> None:
    column = pa.array([MOMENT, None]).cast(pa.timestamp("ns")).cast(pa.timestamp(unit))
    for kind in (pa.timestamp(unit), pa.timestamp(unit, "Asia/Seoul")):
        times = to_times(column.cast(kind))
        assert times.values.tolist() == [MOMENT, 0]
        assert times.bad is not None and times.bad.tolist() == [False, True]


def test_dates_and_times_beyond_nanoseconds() -> None:
    days = [datetime.date(2025, 1, 31), datetime.date(9999, 1, 1)]
    for kind in (pa.date32(), pa.date64(), pa.timestamp("s")):
        times = to_times(pa.array(days, pa.date32()).cast(kind))
        assert times.values.tolist() == [DAY, 0]
        assert times.bad is not None and times.bad.tolist() == [False, True]


@pytest.mark.parametrize(
    ("numbers", "unit", "values"),
    [
        ([1, 17, 0, -3], "steps", [1, 17, 0, -3]),
        ([DAY // 10**9, MOMENT // 10**9], "ns", [DAY, MOMENT]),
        ([DAY // 10**6, MOMENT // 10**6], "ns", [DAY, MOMENT]),
        ([DAY // 10**3, MOMENT // 10**3], "ns", [DAY, MOMENT]),
        ([DAY, MOMENT], "ns", [DAY, MOMENT]),
        ([DAY // 10**9, 5], "steps", [DAY // 10**9, 5]),
        ([20250131, 20250131], "ns", [DAY, DAY]),
        ([20250199, 20250299, 20250131], "steps", [20250199, 20250299, 20250131]),
    ],
)
def test_integers_are_steps_unless_they_look_like_dates(numbers: list[int], unit: str, values: list[int]) -> None:
    for column in (numbers, pa.array(numbers), pa.array(map(str, numbers)), pa.array([float(n) for n in numbers])):
        times = to_times(pa.array(column))
        if pa.types.is_floating(pa.array(column).type) and max(numbers) > 2**53:
            assert times.bad is not None  # a float does not hold nanoseconds
            continue
        assert (times.unit, times.values.tolist(), times.bad) == (unit, values, None)


def test_columns_that_are_no_times() -> None:
    times = to_times(pa.array([1, None, 3], pa.uint64()))
    assert times.bad is not None and times.bad.tolist() == [False, True, False]
    times = to_times(pa.array([2**64 - 1, 5], pa.uint64()))
    assert times.bad is not None and (times.values.tolist(), times.bad.tolist()) == ([0, 5], [True, False])
    times = to_times(pa.array([1.5, 2.0, math.nan, math.inf]))
    assert times.bad is not None and times.bad.tolist() == [True, False, True, True]
    times = to_times(pa.array(["1", "+2", "x", None, "99999999999999999999", "3"]))
    assert times.unit == "steps" and times.bad is not None
    assert (times.values.tolist(), times.bad.tolist()) == ([1, 2, 0, 0, 0, 3], [False, False, True, True, True, False])
    assert np.all(to_times(pa.array([True, False])).bad)
    assert np.all(to_times(pa.array([None, None])).bad)
    for kind in (pa.string(), pa.int64(), pa.timestamp("s")):
        assert len(to_times(pa.array([], kind)).values) == 0
