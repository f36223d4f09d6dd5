"""Identities to dense ids: names of any length, bytes or integers, straight from the Arrow buffers.

The dictionary is an open hash table with linear probing. A slot holds three words: an identity of up to 16 bytes lies
in the first two as it is, so that one cache miss settles most look-ups; of a longer one the slot holds a 64-bit hash
and where its bytes are, and a match is compared byte by byte. No result depends on the hash function.

Look-ups run in threads, chunk by chunk; what a chunk leaves unknown is added by one thread in the order of the rows,
payer before payee. So ids are numbered by first appearance whatever the threads and batches.

The hash is public and without a seed, so that runs repeat exactly. Who can choose many names can therefore make them
collide and slow the reading down (never change its result). Chains of more than ``LONG_CHAIN`` slots make the table
grow until it is 1/16 full, which breaks the chains of names that agree in the low bits of the hash; names chosen to
agree in all 64 bits still cost a look-up through all of them.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic

from ouroflow.errors import InputError
from ouroflow.runtime.threads import threads_available

T = TypeVar("T")

CHUNK_ROWS = 1 << 16
"""Rows whose look-ups run together; the next chunk knows what this one has added."""
TASK_ROWS = 1 << 13
"""Fewer rows of a column are not worth a task of their own."""
LONG_CHAIN = 128
"""A longer chain of occupied slots makes the table grow early."""
DIRECT_SPAN = 1 << 24
"""Integers that lie within such a span are found by position in a plain table (4 bytes each) instead of by hash."""
GROUP = 32
"""Rows whose cache lines are asked for together."""
MAX_IDENTITIES = MAX_LENGTH = 2**31 - 1
IN_SLOT = 16
"""Identities of so many bytes lie in their slot."""

OFFSETS32, OFFSETS64, VIEWS, FIXED = 0, 1, 2, 3
"""Layouts of an Arrow column: with offsets of 32 or 64 bits, string views, values of fixed width."""

EMPTY = -1
UNKNOWN = np.int32(-1)
FIRST_SLOTS = 1 << 14
ODD_1 = np.uint64(0x9E3779B97F4A7C15)
ODD_2 = np.uint64(0xC2B2AE3D27D4EB4F)


class Column(NamedTuple):
    """The buffers of one Arrow array as plain addresses, so that kernels touch no reference counts.

    `start` (offsets, views or values) already includes the slice's offset; `addresses` and `sizes` point to two int64
    arrays that describe the data buffers.
    """

    layout: int
    start: int
    width: int
    addresses: int
    sizes: int
    buffers: int


def _intrinsic(build: Callable[[Any, Any], Any], result: Any) -> Any:
    """Return a function of an address for kernels, made of one instruction."""

    @intrinsic
    def instruction(_typing: Any, _address: Any) -> Any:
        return result(types.int64), lambda _context, builder, _signature, arguments: build(builder, arguments[0])

    return instruction


def _load(builder: Any, address: Any, bits: int) -> Any:
    """Read an integer at any address, aligned or not."""
    word = builder.load(builder.inttoptr(address, ir.IntType(bits).as_pointer()), align=1)
    return builder.zext(word, ir.IntType(64)) if bits < 64 else word


def _prefetch(builder: Any, address: Any) -> Any:
    """Ask for a cache line before it is needed."""
    pointer, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
    signature = ir.FunctionType(ir.VoidType(), [pointer, flag, flag, flag])
    hint = builder.module.declare_intrinsic("llvm.prefetch", [pointer], signature)
    builder.call(hint, [builder.inttoptr(address, pointer), flag(0), flag(3), flag(1)])
    return ir.Constant(ir.IntType(64), 0)


load8 = _intrinsic(lambda builder, address: _load(builder, address, 8), types.uint64)
load32 = _intrinsic(lambda builder, address: _load(builder, address, 32), types.uint64)
load64 = _intrinsic(lambda builder, address: _load(builder, address, 64), types.uint64)
ask_for = _intrinsic(_prefetch, types.uint64)


@numba.njit(cache=True)
def _signed32(address: Any) -> Any:
    return np.int64(np.int32(load32(address)))


@numba.njit(cache=True)
def _signed64(address: Any) -> Any:
    return np.int64(load64(address))


@numba.njit(cache=True)
def _locate(column: Any, row: int) -> Any:
    """Return address and length of one value; length -1 where the buffers contradict themselves."""
    if column.layout == FIXED:
        return column.start + row * column.width, column.width
    if column.layout == VIEWS:
        view = column.start + 16 * row
        length = _signed32(view)
        if length <= 12:
            return view + 4, length
        buffer, begin = _signed32(view + 8), _signed32(view + 12)
        if buffer < 0 or buffer >= column.buffers or begin < 0 or begin + length > _signed64(column.sizes + 8 * buffer):
            return np.int64(0), np.int64(-1)
        return _signed64(column.addresses + 8 * buffer) + begin, length
    if column.layout == OFFSETS32:
        begin, end = _signed32(column.start + 4 * row), _signed32(column.start + 4 * row + 4)
    else:
        begin, end = _signed64(column.start + 8 * row), _signed64(column.start + 8 * row + 8)
    if begin < 0 or end < begin or end > _signed64(column.sizes) or end - begin > MAX_LENGTH:
        return np.int64(0), np.int64(-1)
    return _signed64(column.addresses) + begin, end - begin


@numba.njit(cache=True, nogil=True)
def _any_blank_start(column: Any, rows: int) -> bool:
    """Tell whether any value is empty, unsound, or begins with white space in UTF-8."""
    for row in range(rows):
        address, length = _locate(column, row)
        if length <= 0 or load8(address) <= 0x20:
            return True
        first = load8(address)
        if first == 0xC2 and length >= 2:
            second = load8(address + 1)
            if second == 0x85 or second == 0xA0:  # next line, no-break space
                return True
        elif 0xE1 <= first <= 0xE3 and length >= 3:
            pair = (load8(address + 1) << np.uint64(8)) | load8(address + 2)
            if first == 0xE1 and pair == 0x9A80:  # ogham space
                return True
            if first == 0xE2 and (0x8080 <= pair <= 0x808A or pair == 0x80A8 or pair == 0x80A9):  # en quad to line end
                return True
            if first == 0xE2 and (pair == 0x80AF or pair == 0x819F):  # narrow no-break and mathematical space
                return True
            if first == 0xE3 and pair == 0x8080:  # ideographic space
                return True
    return False


@numba.njit(cache=True)
def _mix(first: Any, second: Any, length: int) -> Any:
    """Mix two words and a length into 64 well spread bits."""
    mixed = (first ^ np.uint64(length)) * ODD_1
    mixed ^= mixed >> np.uint64(32)
    mixed = (mixed ^ second) * ODD_2
    mixed ^= mixed >> np.uint64(29)
    mixed *= ODD_1
    return mixed ^ (mixed >> np.uint64(32))


@numba.njit(cache=True)
def _key(address: int, length: int, hash_mask: Any) -> Any:
    """Return the two words of an identity and its hash; together with the length they are unique up to 16 bytes.

    The words overlap instead of being padded, so that no byte beyond the value is read.
    """
    first, second = np.uint64(0), np.uint64(0)
    if length > IN_SLOT:
        first = np.uint64(length)
        for at in range(0, length - 8, 8):
            first = (first ^ load64(address + at)) * ODD_1
            first ^= first >> np.uint64(29)
        first = _mix(first, load64(address + length - 8), length) & hash_mask
    elif length >= 8:
        first, second = load64(address), load64(address + length - 8)
    elif length >= 4:
        first = load32(address) | (load32(address + length - 4) << np.uint64(32))
    elif length > 0:
        middle, last = load8(address + length // 2), load8(address + length - 1)
        first = load8(address) | (middle << np.uint64(8)) | (last << np.uint64(16))
    return first, second, _mix(first, second, length) & hash_mask


@numba.njit(cache=True)
def _same_bytes(one: int, other: int, length: int) -> bool:
    """Compare two long values, 8 bytes at a time."""
    for at in range(0, length - 8, 8):
        if load64(one + at) != load64(other + at):
            return False
    return load64(one + length - 8) == load64(other + length - 8)


@numba.njit(cache=True)
def _probe(table: int, mask: int, store: int, address: int, length: int, first: Any, second: Any, hashed: Any) -> Any:
    """Return the slot of an identity, or of the empty place where it belongs, what it holds, and the slots visited."""
    slot = np.int64(hashed) & mask
    visited = 1
    while True:
        at = table + 24 * slot
        held = _signed64(at + 16)
        if held == EMPTY:
            break
        if held >> 32 == length and load64(at) == first:
            if length > IN_SLOT:
                if _same_bytes(address, store + _signed64(at + 8), length):
                    break
            elif load64(at + 8) == second:
                break
        slot = (slot + 1) & mask
        visited += 1
    return slot, held, visited


@numba.njit(cache=True, nogil=True)
def _look_up(column: Any, begin: int, end: int, table: int, mask: int, store: int, hash_mask: Any, ids: Any) -> int:
    """Find the ids of a range of rows, UNKNOWN for new identities; return the first unsound row, or -1.

    Works on groups of rows: all keys first, asking for their slots, so that the cache misses overlap.
    """
    address, length = np.empty(GROUP, np.int64), np.empty(GROUP, np.int64)
    first, second, hashed = np.empty(GROUP, np.uint64), np.empty(GROUP, np.uint64), np.empty(GROUP, np.uint64)
    for group in range(begin, end, GROUP):
        size = min(GROUP, end - group)
        for i in range(size):
            address[i], length[i] = _locate(column, group + i)
            if length[i] < 0:
                return group + i
            first[i], second[i], hashed[i] = _key(address[i], length[i], hash_mask)
            ask_for(table + 24 * (np.int64(hashed[i]) & mask))
        for i in range(size):
            _, held, _ = _probe(table, mask, store, address[i], length[i], first[i], second[i], hashed[i])
            ids[group + i] = np.int32(held & 0xFFFFFFFF) if held != EMPTY else UNKNOWN
    return -1


@numba.njit(cache=True, nogil=True)
def _add(
    payer: Any,
    payee: Any,
    begin: int,
    end: int,
    table: Any,
    data: Any,
    ends: Any,
    count: int,
    hash_mask: Any,
    payer_ids: Any,
    payee_ids: Any,
) -> Any:
    """Add what is unknown in a range of rows, in order, payer first.

    Returns the row where it stopped, the number of identities, the bytes that the store needs, and whether chains are
    too long. It stops early when store or table must grow; a half done row is simply taken up again.
    """
    table_address, mask, store = table.ctypes.data, len(table) - 1, data.ctypes.data
    for row in range(begin, end):
        if payer_ids[row] != UNKNOWN and payee_ids[row] != UNKNOWN:
            continue
        for side in range(2):
            if (payer_ids[row] if side == 0 else payee_ids[row]) != UNKNOWN:
                continue
            address, length = _locate(payer, row) if side == 0 else _locate(payee, row)
            first, second, hashed = _key(address, length, hash_mask)
            slot, held, visited = _probe(table_address, mask, store, address, length, first, second, hashed)
            if held == EMPTY:
                used = ends[count]
                crowded = visited > LONG_CHAIN and 16 * count > len(table)
                if used + length > len(data) or count + 1 >= len(ends) or 2 * count >= len(table) or crowded:
                    return row, count, used + length, crowded
                for at in range(length):
                    data[used + at] = load8(address + at)
                table[slot, 0] = np.int64(first)
                table[slot, 1] = used if length > IN_SLOT else np.int64(second)
                table[slot, 2] = held = (length << 32) | count
                count += 1
                ends[count] = used + length
            if side == 0:
                payer_ids[row] = np.int32(held & 0xFFFFFFFF)
            else:
                payee_ids[row] = np.int32(held & 0xFFFFFFFF)
    return end, count, ends[count], False


@numba.njit(cache=True, nogil=True)
def _move(table: Any, larger: Any, hash_mask: Any) -> None:
    """Fill a larger table with the slots of the old one."""
    mask = len(larger) - 1
    for old in range(len(table)):
        if table[old, 2] == EMPTY:
            continue
        length = table[old, 2] >> 32
        second = np.uint64(0) if length > IN_SLOT else np.uint64(table[old, 1])
        slot = np.int64(_mix(np.uint64(table[old, 0]), second, length) & hash_mask) & mask
        while larger[slot, 2] != EMPTY:
            slot = (slot + 1) & mask
        for word in range(3):
            larger[slot, word] = table[old, word]


@numba.njit(cache=True, nogil=True)
def _number_direct(
    payer: Any, payee: Any, table: Any, low: int, values: Any, count: int, payer_ids: Any, payee_ids: Any
) -> int:
    """Number integers through a table that covers them all (0: not seen yet, else id + 1); return their count."""
    for row in range(len(payer)):
        for side in range(2):
            value = payer[row] if side == 0 else payee[row]
            known = table[value - low]
            if known == 0:
                values[count] = value
                count += 1
                known = np.int32(count)
                table[value - low] = known
            if side == 0:
                payer_ids[row] = known - 1
            else:
                payee_ids[row] = known - 1
    return count


class Identities:
    """A growing dictionary from identities to ids 0, 1, 2... in order of first appearance.

    Rows are read in order, payer before payee, so the ids depend on the data alone, never on threads or batches.

    Parameters
    ----------
    threads : int, optional
        Threads that look up. Default: as many as the process may use.

    Notes
    -----
    All arrays of one dictionary must be of one family: text (string, large string, string view, dictionaries of
    them), bytes, or integers of any width. The same number as text and as integer is two identities to one reader and
    one to another, so nothing is converted in silence: a mixture is an error that says how to read all files alike.

    Memory: per identity 48 to 96 bytes of table (half more for a moment whenever it doubles) and 1 to 2 times its
    length plus 8 to 16 bytes of store. Integers within a span of 2**24 take 4 to 8 bytes per number of the span and 8
    to 16 per identity instead.
    """

    def __init__(self, *, threads: int | None = None, _hash_mask: int = 2**64 - 1) -> None:
        self._threads = threads or threads_available()
        self._pool = ThreadPoolExecutor(self._threads) if self._threads > 1 else None
        self._hash_mask = np.uint64(_hash_mask)
        self._family = ""
        self._count = 0
        self._data = np.empty(1 << 16, dtype=np.uint8)
        self._ends = np.zeros(FIRST_SLOTS // 2 + 1, dtype=np.int64)
        self._table = np.empty((0, 3), dtype=np.int64)
        self._direct = np.empty(0, dtype=np.int32)
        self._low = 0

    def __len__(self) -> int:
        """Return the number of identities seen so far."""
        return self._count

    def encode(self, payer: pa.Array, payee: pa.Array) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Return the ids of both columns of one batch, adding what is new.

        Reads the Arrow buffers in place, slices included. Only dictionary columns are unpacked first, and integers
        other than int64 widened.

        Parameters
        ----------
        payer, payee : pyarrow.Array of shape (rows,)
            Without nulls: the caller drops rejected rows before (and copies nothing where there are none).

        Returns
        -------
        tuple of int32 arrays of shape (rows,)

        Raises
        ------
        InputError
            If a column is neither text nor bytes nor integers or not of the family seen before, has nulls, holds an
            integer past int64, or if its buffers are corrupt.
        """
        if len(payer) != len(payee):
            raise InputError(f"a batch has {len(payer)} payers and {len(payee)} payees: one of each per payment")
        columns = [self._admit(column, what) for column, what in ((payer, "payer"), (payee, "payee"))]
        rows = len(payer)
        payer_ids, payee_ids = np.empty(rows, dtype=np.int32), np.empty(rows, dtype=np.int32)
        if rows == 0:
            return payer_ids, payee_ids
        if self._family == "integers":
            payer_values, payee_values = _int64_values(columns[0], "payer"), _int64_values(columns[1], "payee")
            if self._covers(payer_values, payee_values):
                store = self._data.view(np.int64)
                self._count = _number_direct(
                    payer_values, payee_values, self._direct, self._low, store, self._count, payer_ids, payee_ids
                )
                return payer_ids, payee_ids
            described = _fixed_column(payer_values), _fixed_column(payee_values)
        else:
            (payer_column, _payer_data), (payee_column, _payee_data) = _describe(columns[0]), _describe(columns[1])
            described = payer_column, payee_column
        if not len(self._table):
            self._table = np.full((FIRST_SLOTS, 3), EMPTY, dtype=np.int64)
        for begin in range(0, rows, CHUNK_ROWS):
            end = min(begin + CHUNK_ROWS, rows)
            self._look_up(described, begin, end, (payer_ids, payee_ids))
            self._add(described, begin, end, payer_ids, payee_ids)
        return payer_ids, payee_ids

    def names(self) -> pa.Array:
        """Return the identities by id: string (large_string from 2 GiB on), binary or int64, without copying the bytes.

        Raises
        ------
        InputError
            If an identity read as text is not UTF-8.
        """
        if self._family == "integers":
            return pa.Array.from_buffers(pa.int64(), self._count, [None, pa.py_buffer(self._data[: 8 * self._count])])
        ends = self._ends[: self._count + 1]
        small = int(ends[-1]) < 2**31
        offsets = pa.py_buffer(ends.astype(np.int32) if small else ends)
        if self._family == "bytes":
            kind = pa.binary() if small else pa.large_binary()
        else:
            kind = pa.string() if small else pa.large_string()
        names = pa.Array.from_buffers(kind, self._count, [None, offsets, pa.py_buffer(self._data[: int(ends[-1])])])
        try:
            names.validate(full=True)
        except pa.ArrowInvalid as error:
            advice = "convert the file to UTF-8, or read the column as binary"
            raise InputError(f"an identity is not UTF-8 text ({error}): {advice}") from error
        return names

    def _admit(self, column: pa.Array, what: str) -> pa.Array:
        """Unpack dictionaries and check that the column belongs to the family seen so far."""
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        family = _family(column.type)
        if not family:
            advice = "identities are text, integers or bytes; cast the column first"
            raise InputError(f"{what} is of type {column.type}: {advice}")
        if self._family and family != self._family:
            raise InputError(
                f"{what} holds {family} ({column.type}) where earlier columns or files hold {self._family}: "
                "give the column one type in all files, text for instance"
            )
        if column.null_count:
            raise InputError(f"{what} has {column.null_count} nulls: drop these rows first")
        self._family = family
        return column

    def _covers(self, payer: npt.NDArray[np.int64], payee: npt.NDArray[np.int64]) -> bool:
        """Make the plain table cover a batch of integers; False once their span is too wide (hashed from then on)."""
        if len(self._table):
            return False
        low, high = min(int(payer.min()), int(payee.min())), max(int(payer.max()), int(payee.max()))
        if self._count:
            low, high = min(low, self._low), max(high, self._low + len(self._direct) - 1)
        if high - low >= DIRECT_SPAN:
            self._leave_direct()
            return False
        if low != self._low or high - low >= len(self._direct):
            covering = np.zeros(min(DIRECT_SPAN, 2 * (high - low + 1)), dtype=np.int32)
            covering[self._low - low :][: len(self._direct)] = self._direct if self._count else 0
            self._direct, self._low = covering, low
        room = min(len(self._direct), self._count + 2 * len(payer))
        if 8 * room > len(self._data):
            self._data = _grown(self._data, 8 * self._count, 8 * room)
        return True

    def _leave_direct(self) -> None:
        """Move the integers seen so far from the plain table into the hash table."""
        self._table = np.full((FIRST_SLOTS, 3), EMPTY, dtype=np.int64)
        seen, self._count = self._data[: 8 * self._count].view(np.int64).copy(), 0
        self._direct = np.empty(0, dtype=np.int32)
        ids = np.full(len(seen), UNKNOWN, dtype=np.int32)
        column = _fixed_column(seen)
        self._add((column, column), 0, len(seen), ids, ids)

    def _look_up(self, columns: tuple[Column, Column], begin: int, end: int, ids: tuple[Any, Any]) -> None:
        """Look up a chunk in threads: each column in as many parts as its share of the threads."""
        parts = max(1, min(self._threads // 2, (end - begin) // TASK_ROWS))
        bounds = [begin + (end - begin) * part // parts for part in range(parts + 1)]

        table, mask, store = self._table.ctypes.data, len(self._table) - 1, self._data.ctypes.data

        def part_of(task: tuple[int, int]) -> int:
            side, part = task
            first, last = bounds[part], bounds[part + 1]
            return int(_look_up(columns[side], first, last, table, mask, store, self._hash_mask, ids[side]))

        tasks = [(side, part) for side in range(2) for part in range(parts)]
        unsound = list(map(part_of, tasks) if self._pool is None else self._pool.map(part_of, tasks))
        if max(unsound) >= 0:
            row = min(row for row in unsound if row >= 0)
            raise InputError(f"row {row} of the batch points outside its text buffer: the file is corrupt")

    def _add(self, columns: tuple[Column, Column], begin: int, end: int, payer_ids: Any, payee_ids: Any) -> None:
        """Add what a chunk left unknown, growing store and table as needed."""
        while True:
            begin, self._count, needed, crowded = _add(
                columns[0], columns[1], begin, end, self._table, self._data, self._ends, self._count, self._hash_mask,
                payer_ids, payee_ids,
            )  # fmt: skip
            if begin == end:
                return
            if self._count >= MAX_IDENTITIES:
                raise InputError(f"more than {MAX_IDENTITIES} identities: split the data")
            if needed > len(self._data):
                self._data = _grown(self._data, int(self._ends[self._count]), needed)
            if self._count + 1 >= len(self._ends):
                self._ends = _grown(self._ends, self._count + 1, self._count + 2)
            if crowded or 2 * self._count >= len(self._table):
                larger = np.full((2 * len(self._table), 3), EMPTY, dtype=np.int64)
                _move(self._table, larger, self._hash_mask)
                self._table = larger


def any_blank_start(column: pa.Array) -> bool:
    """Tell whether any text is empty or begins with white space, so that it may be blank.

    A scan of first bytes in place, for the question that is nearly always answered with no; True also where the buffers
    contradict themselves.

    Parameters
    ----------
    column : pyarrow.Array
        string, large_string or string_view, without nulls.
    """
    if not len(column):
        return False
    described, _data = _describe(column)
    return bool(_any_blank_start(described, len(column)))


def prefetch(source: Iterable[T], depth: int = 4) -> Generator[T, None, None]:
    """Yield the items of `source` while a thread of its own already produces up to `depth` items ahead.

    So a reader decodes the next batches while this thread works on the last one. An error of the source is raised here,
    at its place in the sequence. Closing the generator early stops the thread.
    """
    waiting: queue.Queue[Callable[[], T] | None] = queue.Queue(depth)
    stopped = threading.Event()

    def offer(item: Callable[[], T] | None) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            for item in source:
                if not offer(lambda item=item: item):  # type: ignore[misc]
                    return
        except BaseException as error:
            offer(lambda error=error: _raise(error))  # type: ignore[misc]
        finally:
            offer(None)

    thread = threading.Thread(target=read, name="ouroflow-prefetch", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            yield item()
    finally:
        stopped.set()
        thread.join()


def _raise(error: BaseException) -> Any:
    raise error


def _family(kind: pa.DataType) -> str:
    """Return what the values of a type are as identities; empty for types that cannot be identities."""
    t = pa.types
    if t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind):
        return "text"
    if t.is_binary(kind) or t.is_large_binary(kind) or t.is_binary_view(kind) or t.is_fixed_size_binary(kind):
        return "bytes"
    return "integers" if t.is_integer(kind) else ""


def _int64_values(column: pa.Array, what: str) -> npt.NDArray[np.int64]:
    """Return the integers of a column as int64, the same memory where they are."""
    values = column.to_numpy(zero_copy_only=True)
    if values.dtype == np.uint64 and len(values) and int(values.max()) >= 2**63:
        raise InputError(f"{what} holds {values.max()}, past int64: read the column as text")
    values = values.astype(np.int64, copy=False)
    values.setflags(write=False)  # one kernel for buffers of any origin
    return values


def _fixed_column(values: npt.NDArray[np.int64]) -> Column:
    """Describe integers as values of 8 bytes."""
    return Column(FIXED, values.ctypes.data, 8, 0, 0, 0)


def _describe(column: pa.Array) -> tuple[Column, npt.NDArray[np.int64]]:
    """Describe the buffers of a text or bytes column; the array must live as long as the description."""
    _, first, *rest = column.buffers()
    buffers = [buffer for buffer in rest if buffer is not None]
    places = [[buffer.address for buffer in buffers] or [0], [buffer.size for buffer in buffers] or [0]]
    data = np.array(places, dtype=np.int64)
    t = pa.types
    if t.is_fixed_size_binary(column.type):
        layout, width = FIXED, column.type.byte_width
    elif t.is_string_view(column.type) or t.is_binary_view(column.type):
        layout, width = VIEWS, 16
    elif t.is_large_string(column.type) or t.is_large_binary(column.type):
        layout, width = OFFSETS64, 8
    else:
        layout, width = OFFSETS32, 4
    start = first.address + width * column.offset
    return Column(layout, start, width, data[0].ctypes.data, data[1].ctypes.data, len(buffers)), data


def _grown(array: Any, used: int, needed: int) -> Any:
    """Return an array of at least twice the length that begins with the used part of the old one."""
    larger = np.empty(max(2 * len(array), needed + needed % 8), dtype=array.dtype)
    larger[:used] = array[:used]
    return larger
