"""Identities to dense ids: names of any length, bytes or integers, straight from the Arrow buffers.

The dictionary is an open hash table with linear probing. A slot holds three words: an identity of up to 16 bytes lies in
the first two as it is, so that one cache miss settles most look-ups; of a longer one the slot holds a 64-bit hash and
where its bytes are, and a match is compared byte by byte. No result depends on the hash function.

Look-ups run in threads, chunk by chunk; what a chunk leaves unknown is added by one thread in the order of the rows,
payer before payee. So ids are numbered by first appearance whatever the threads and batches.

The hash is public and without a seed, so that runs repeat exactly. Who can choose millions of names can therefore make
them collide and slow the reading down (never change its result); chains of more than ``LONG_CHAIN`` slots make the table
grow up to 1/16 full, which breaks chains that are due to the low bits only.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ouroflow.errors import InputError

T = TypeVar("T")

CHUNK_ROWS = 1 << 16
"""Rows whose look-ups run together; the next chunk knows what this one has added."""
LONG_CHAIN = 128
"""A longer chain of occupied slots makes the table grow early."""
DIRECT_SPAN = 1 << 24
"""Integers that lie within such a span are found by position in a plain table (4 bytes each) instead of by hash."""
MAX_IDENTITIES = 2**31 - 1
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
    """The buffers of one Arrow array, as the kernels read them; addresses already include the slice's offset."""

    layout: int
    index: int
    width: int
    addresses: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]


def _loader(llvm_bits: int, result: Any) -> Any:
    """Return an intrinsic that reads an integer at any address, aligned or not."""

    @intrinsic  # type: ignore[misc]
    def load(typing_context: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = builder.inttoptr(arguments[0], ir.IntType(llvm_bits).as_pointer())
            word = builder.load(pointer, align=1)
            return builder.zext(word, ir.IntType(64)) if llvm_bits < 64 else word

        return result(types.int64), codegen

    return load


load8, load32, load64 = (_loader(bits, types.uint64) for bits in (8, 32, 64))


@numba.njit(cache=True)
def _locate(column, row):
    """Return address and length of one value; length -1 where the buffers contradict themselves."""
    if column.layout == FIXED:
        return column.index + row * column.width, column.width
    if column.layout == VIEWS:
        view = column.index + 16 * row
        length = np.int64(np.int32(load32(view)))
        if length <= 12:
            return view + 4, length
        buffer, begin = np.int64(np.int32(load32(view + 8))), np.int64(np.int32(load32(view + 12)))
        if buffer < 0 or buffer >= len(column.sizes) or begin < 0 or begin + length > column.sizes[buffer]:
            return np.int64(0), np.int64(-1)
        return column.addresses[buffer] + begin, length
    if column.layout == OFFSETS32:
        begin = np.int64(np.int32(load32(column.index + 4 * row)))
        end = np.int64(np.int32(load32(column.index + 4 * row + 4)))
    else:
        begin, end = np.int64(load64(column.index + 8 * row)), np.int64(load64(column.index + 8 * row + 8))
    if begin < 0 or end < begin or end > column.sizes[0] or end - begin > MAX_IDENTITIES:
        return np.int64(0), np.int64(-1)
    return column.addresses[0] + begin, end - begin


@numba.njit(cache=True)
def _mix(first, second, length):
    """Mix two words and a length into 64 well spread bits."""
    mixed = (first ^ np.uint64(length)) * ODD_1
    mixed ^= mixed >> np.uint64(32)
    mixed = (mixed ^ second) * ODD_2
    mixed ^= mixed >> np.uint64(29)
    mixed *= ODD_1
    return mixed ^ (mixed >> np.uint64(32))


@numba.njit(cache=True)
def _key(address, length, hash_mask):
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
        first = load8(address) | (load8(address + length // 2) << np.uint64(8)) | (load8(address + length - 1) << np.uint64(16))
    return first, second, _mix(first, second, length) & hash_mask


@numba.njit(cache=True)
def _same_bytes(one, other, length):
    """Compare two long values, 8 bytes at a time."""
    for at in range(0, length - 8, 8):
        if load64(one + at) != load64(other + at):
            return False
    return load64(one + length - 8) == load64(other + length - 8)


@numba.njit(cache=True)
def _probe(table, store, address, length, first, second, hashed):
    """Return the slot of an identity, or of the empty place where it belongs, and the number of slots visited."""
    mask = len(table) - 1
    slot = np.int64(hashed) & mask
    visited = 1
    while table[slot, 2] != EMPTY:
        if table[slot, 2] >> 32 == length and np.uint64(table[slot, 0]) == first:
            if length > IN_SLOT:
                if _same_bytes(address, store + table[slot, 1], length):
                    break
            elif np.uint64(table[slot, 1]) == second:
                break
        slot = (slot + 1) & mask
        visited += 1
    return slot, visited


@numba.njit(cache=True, nogil=True)
def _look_up(column, begin, end, table, store, hash_mask, ids):
    """Find the ids of a range of rows, UNKNOWN for new identities; return the first unsound row, or -1."""
    for row in range(begin, end):
        address, length = _locate(column, row)
        if length < 0:
            return row
        first, second, hashed = _key(address, length, hash_mask)
        slot, _ = _probe(table, store, address, length, first, second, hashed)
        ids[row] = np.int32(table[slot, 2] & 0xFFFFFFFF) if table[slot, 2] != EMPTY else UNKNOWN
    return -1


@numba.njit(cache=True, nogil=True)
def _add(payer, payee, begin, end, table, data, store, ends, count, hash_mask, payer_ids, payee_ids):
    """Add what is unknown in a range of rows, in order, payer first.

    Returns the row where it stopped, the number of identities, and the bytes that the store needs; it stops early when
    store or table must grow (a row may be half done; its unknown half is simply taken up again).
    """
    room = len(table) // 2
    for row in range(begin, end):
        for side in range(2):
            column, ids = (payer, payer_ids) if side == 0 else (payee, payee_ids)
            if ids[row] != UNKNOWN:
                continue
            address, length = _locate(column, row)
            first, second, hashed = _key(address, length, hash_mask)
            slot, visited = _probe(table, store, address, length, first, second, hashed)
            if table[slot, 2] == EMPTY:
                used = ends[count]
                crowded = visited > LONG_CHAIN and 16 * count > len(table)
                if used + length > len(data) or count + 1 >= len(ends) or count >= room or crowded:
                    return row, count, used + length, crowded
                for at in range(length):
                    data[used + at] = load8(address + at)
                table[slot, 0] = np.int64(first)
                table[slot, 1] = used if length > IN_SLOT else np.int64(second)
                table[slot, 2] = (length << 32) | count
                count += 1
                ends[count] = used + length
            ids[row] = np.int32(table[slot, 2] & 0xFFFFFFFF)
    return end, count, ends[count], False


@numba.njit(cache=True, nogil=True)
def _move(table, larger, hash_mask):
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
        larger[slot] = table[old]
