"""Identities: any names become ids in order of first appearance, whatever the threads, the batches and the hash."""

from __future__ import annotations

import re
import threading
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ouroflow.errors import InputError
from ouroflow.ledger import encode
from ouroflow.ledger.encode import Identities, prefetch

HOSTILE = [
    "",
    "가나다 주식회사",
    "㈜한국",
    "🦊",
    "👩‍👩‍👧",
    "a\0b",
    "a\0c",
    "a",
    "\0",
    "\0\0",
    "=SUM(A1)",
    "x" * 16,
    "x" * 17,
    "x" * 100_000,
]


def numbered(payer: list[Any], payee: list[Any]) -> tuple[list[int], list[int], list[Any]]:
    """Number identities the slow and obvious way."""
    ids: dict[Any, int] = {}
    columns: tuple[list[int], list[int]] = ([], [])
    for row in zip(payer, payee, strict=True):
        for side in range(2):
            columns[side].append(ids.setdefault(row[side], len(ids)))
    return *columns, list(ids)


def encoded(
    payer: pa.Array, payee: pa.Array, batch: int = 10**9, **options: Any
) -> tuple[list[int], list[int], list[Any]]:
    """Number two columns through Identities, in batches."""
    identities = Identities(**options)
    parts = [identities.encode(payer[at : at + batch], payee[at : at + batch]) for at in range(0, len(payer), batch)]
    names = identities.names().to_pylist()
    assert len(identities) == len(names)
    return [int(i) for part in parts for i in part[0]], [int(i) for part in parts for i in part[1]], names


text = st.one_of(st.sampled_from(HOSTILE[:-1]), st.text(max_size=20), st.text(alphabet="ab", min_size=12, max_size=40))
text_types = st.sampled_from([pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])


@settings(deadline=None)
@given(st.lists(st.tuples(text, text), max_size=60), text_types, st.integers(1, 70), st.integers(1, 3))
def test_names_are_numbered_by_first_appearance(
    rows: list[tuple[str, str]], kind: pa.DataType, batch: int, threads: int
) -> None:
    payer, payee = [row[0] for row in rows], [row[1] for row in rows]
    columns = pa.array(payer, pa.string()).cast(kind), pa.array(payee, pa.string()).cast(kind)
    assert encoded(*columns, batch=batch, threads=threads) == numbered(payer, payee)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=40)), max_size=40),
    st.sampled_from([pa.binary(), pa.large_binary(), pa.binary_view()]),
)
def test_bytes_are_identities_too(rows: list[tuple[bytes, bytes]], kind: pa.DataType) -> None:
    payer, payee = [row[0] for row in rows], [row[1] for row in rows]
    assert encoded(pa.array(payer, kind), pa.array(payee, kind)) == numbered(payer, payee)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(-100, 100)), max_size=60),
    st.integers(1, 70),
    st.booleans(),
)
def test_integers_are_numbered_from_narrow_and_wide_spans(rows: list[tuple[int, int]], batch: int, wide: bool) -> None:
    payer, payee = [row[0] if wide else row[0] % 1000 for row in rows], [row[1] for row in rows]
    assert encoded(pa.array(payer, pa.int64()), pa.array(payee, pa.int64()), batch=batch) == numbered(payer, payee)


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.uint64()])
def test_integers_of_any_width_are_the_same_identities(kind: pa.DataType) -> None:
    payer, payee = [7, 100, 7, 0], [100, 3, 0, 7]
    assert encoded(pa.array(payer, kind), pa.array(payee, pa.int64())) == numbered(payer, payee)


def test_integers_that_outgrow_the_plain_table_keep_their_ids() -> None:
    rng = np.random.default_rng(5)
    values = np.concatenate(
        [rng.integers(50, 90, 500), rng.integers(-9000, 9000, 500), rng.integers(-(2**62), 2**62, 500)]
    )
    values = np.concatenate([values, values[::-1]])
    columns = pa.array(values), pa.array(values[::-1].copy())
    assert encoded(*columns, batch=250) == numbered(values.tolist(), values[::-1].tolist())


def test_hostile_names_stay_apart_and_come_back_as_they_were() -> None:
    payer, payee = HOSTILE * 3, HOSTILE[::-1] * 3
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        assert encoded(pa.array(payer, kind), pa.array(payee, kind)) == numbered(payer, payee)


@pytest.mark.parametrize("hash_mask", [0, 1, 0xFF << 40])
@pytest.mark.parametrize("length", [3, 8, 11, 16, 17, 40])
def test_no_result_depends_on_the_hash(hash_mask: int, length: int) -> None:
    rng = np.random.default_rng(length)
    payer, payee = ([f"{i:0{length}d}"[-length:] for i in rng.integers(0, 700, 1000)] for _ in range(2))
    assert encoded(pa.array(payer), pa.array(payee), _hash_mask=hash_mask) == numbered(payer, payee)


def test_values_that_differ_in_one_byte_are_different() -> None:
    names = [
        "".join("b" if at == place else "a" for at in range(length))
        for length in range(40)
        for place in range(-1, length)
    ]
    assert encoded(pa.array(names), pa.array(names[::-1])) == numbered(names, names[::-1])


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("batch", [997, 70_001, 10**9])
def test_ids_depend_on_neither_threads_nor_batches(threads: int, batch: int) -> None:
    rng = np.random.default_rng(11)
    payer, payee = (pa.array(rng.integers(0, 60_000, 150_000)).cast(pa.string()) for _ in range(2))
    assert encoded(payer, payee, batch=batch, threads=threads) == numbered(payer.to_pylist(), payee.to_pylist())


def test_slices_are_read_at_their_place() -> None:
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        column = pa.array(["no", "a", "bb", "a much longer name than sixteen bytes", "no"]).cast(kind)
        assert encoded(column[1:4], column[1:4])[2] == ["a", "bb", "a much longer name than sixteen bytes"]
    fixed = pa.array([b"no", b"aa", b"bb"], pa.binary(2))
    assert encoded(fixed[1:], fixed[1:])[2] == [b"aa", b"bb"]
    assert encoded(pa.array([1, 2, 3])[1:], pa.array([1, 2, 3])[1:])[2] == [2, 3]


def test_an_empty_batch_adds_nothing() -> None:
    for kind in (pa.string(), pa.int64(), pa.string_view()):
        assert encoded(pa.array([], kind), pa.array([], kind)) == ([], [], [])
    identities = Identities()
    assert identities.names().to_pylist() == []
    assert identities.encode(pa.array([], pa.string()), pa.array([], pa.string()))[0].dtype == np.int32


def test_text_of_several_types_is_one_family() -> None:
    identities = Identities()
    identities.encode(pa.array(["a"]), pa.array(["b"], pa.large_string()))
    payer, payee = identities.encode(pa.array(["b"], pa.string_view()), pa.array(["a"]).dictionary_encode())
    assert (payer.tolist(), payee.tolist()) == ([1], [0])
    assert identities.names().type == pa.string()


@pytest.mark.parametrize(
    ("payer", "payee", "message"),
    [
        (pa.array([1]), pa.array(["1"]), "payee holds text (string) where earlier columns or files hold integers"),
        (pa.array(["1"]), pa.array([1]), "payee holds integers (int64) where earlier columns or files hold text"),
        (pa.array([b"1"]), pa.array(["1"]), "payee holds text (string) where earlier columns or files hold bytes"),
        (pa.array([1.0]), pa.array([2.0]), "payer is of type double: identities are text, integers or bytes"),
        (pa.array([True]), pa.array([False]), "payer is of type bool"),
        (pa.array(["a", None]), pa.array(["a", "b"]), "payer has 1 nulls"),
        (pa.array(["a"]), pa.array(["a", "b"]), "a batch has 1 payers and 2 payees"),
        (pa.array([2**63], pa.uint64()), pa.array([1]), f"payer holds {2**63}, past int64"),
    ],
)
def test_what_cannot_be_an_identity_is_refused(payer: pa.Array, payee: pa.Array, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Identities().encode(payer, payee)


def test_text_that_is_not_utf8_is_refused_with_the_names() -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xb0\xa1")]
    )
    identities = Identities()
    identities.encode(broken, pa.array(["fine"]))
    with pytest.raises(InputError, match="not UTF-8"):
        identities.names()


@pytest.mark.parametrize("inner", [[1, 999], [-5, 3], [7, 3]])
def test_offsets_outside_the_buffer_are_refused(inner: list[int]) -> None:
    for kind, width in ((pa.string(), np.int32), (pa.large_string(), np.int64)):
        offsets = pa.py_buffer(np.array([0, *inner, 8], width))
        corrupt = pa.Array.from_buffers(kind, 3, [None, offsets, pa.py_buffer(b"abcdefgh")])
        for before in ([], [pa.array(["known"])]):
            identities = Identities()
            for known in before:
                identities.encode(known, known)
            with pytest.raises(InputError, match=r"row [01] of the batch points outside its text buffer"):
                identities.encode(corrupt, pa.array(["x", "y", "z"]))


def test_views_outside_their_buffers_are_refused() -> None:
    for length, buffer, start in ((20, 0, 10**6), (20, 3, 0), (20, 0, -1), (-1, 0, 0)):
        view = np.array([length, 0, buffer, start], dtype=np.int32)
        corrupt = pa.Array.from_buffers(pa.string_view(), 1, [None, pa.py_buffer(view), pa.py_buffer(b"x" * 30)])
        with pytest.raises(InputError, match="points outside its text buffer"):
            Identities().encode(corrupt, pa.array(["x"]))


def test_names_taken_early_do_not_change_when_more_follow() -> None:
    identities = Identities()
    identities.encode(pa.array(["a", "b"]), pa.array(["c", "a long name of more than 16 bytes"]))
    early = identities.names()
    before = early.to_pylist()
    identities.encode(*(pa.array([f"company {i + side}" for i in range(50_000)]) for side in range(2)))
    assert early.to_pylist() == before
    assert identities.names()[:4].to_pylist() == before


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_names_that_may_be_blank_are_noticed(kind: pa.DataType) -> None:
    for code in range(0x11000):
        character = chr(code)
        if character.isspace():
            assert encode.any_blank_start(pa.array(["a", character + "x"], kind)), hex(code)
    fine = ["㈜한국", "한국", "삼성", "éa", "\u200bzero width", "x ", "\u3001", "\u2013 dash", "ⓒ", "\u1681"]
    assert not encode.any_blank_start(pa.array(fine, kind))
    assert encode.any_blank_start(pa.array([*fine, ""], kind))
    assert encode.any_blank_start(pa.array([" ", "a"], kind))
    assert not encode.any_blank_start(pa.array([" ", "a"], kind)[1:])
    assert not encode.any_blank_start(pa.array([], kind))


def test_prefetch_keeps_the_order_and_hands_on_errors() -> None:
    def source() -> Iterator[int]:
        yield from range(20)
        raise InputError("row 21 is broken")

    ahead = prefetch(source(), 3)
    assert [next(ahead) for _ in range(20)] == list(range(20))
    with pytest.raises(InputError, match="row 21"):
        next(ahead)
    assert list(prefetch([None, 0, ""], 1)) == [None, 0, ""]


def test_prefetch_stops_its_thread_when_nobody_reads_on() -> None:
    produced = []

    def source() -> Iterator[int]:
        for item in range(10**9):
            produced.append(item)
            yield item

    ahead = prefetch(source(), 2)
    assert next(ahead) == 0
    ahead.close()
    assert not any(thread.name == "ouroflow-prefetch" for thread in threading.enumerate())
    count = len(produced)
    time.sleep(0.05)
    assert len(produced) == count < 10


def test_a_crowded_table_grows_early(monkeypatch: pytest.MonkeyPatch) -> None:
    identities = Identities(_hash_mask=0xFFFF << 12)
    names = pa.array([f"company {i}" for i in range(3000)])
    monkeypatch.setattr(encode, "FIRST_SLOTS", 1 << 14)
    payer, _ = identities.encode(names, names)
    assert payer.tolist() == list(range(3000))
    assert len(identities._table) > 1 << 14


def test_memory_stays_within_what_the_docstring_states() -> None:
    names = pa.array([f"C{i:010d}" for i in range(300_000)])
    numbers = pa.array(np.arange(300_000) * 3)
    for column, per_identity, length in ((names, 96 + 16, 11), (numbers, 16 + 8 * 3, 0)):
        identities = Identities()
        tracemalloc.start()
        for begin in range(0, len(column), 50_000):
            identities.encode(column[begin : begin + 50_000], column[begin : begin + 50_000])
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(identities) == 300_000
        assert kept <= (per_identity + 2 * length) * 300_000 + 2**20
        assert peak <= 1.6 * (per_identity + 2 * length) * 300_000 + 2**20
