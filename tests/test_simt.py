"""The host lane does what a device does: barriers, warp collectives, atomics, rounding; and it refuses what CUDA refuses."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

from ouroflow.errors import KernelError
from simt import watch
from simt.host import HERE, PLAIN, LocalProgram, NumpyAccelerator

pytestmark = pytest.mark.host

PROGRAM = LocalProgram("collectives.cu")
STRIDE = PROGRAM.kernel("stride_over_items", "int64", "int64*", "int32*", block=64)
WARP_ITEMS = PROGRAM.kernel("warp_items", "int64", "int64*", block=64)
BLOCK_SUMS = PROGRAM.kernel("block_sums", "const Real*", "int64", "Real*", types=("Real",), block=256)
WARP_SUMS = PROGRAM.kernel("warp_sums", "const Index*", "int64", "Index*", types=("Index",), block=96)
SHUFFLES = PROGRAM.kernel("shuffles", "const int32*", "int32", *["int32*"] * 4, block=64)
PARTIAL_VOTES = PROGRAM.kernel(
    "partial_votes", "const int32*", "uint32", "uint32*", "int32*", "int32*", "uint32*", block=64
)
TWO_HALVES = PROGRAM.kernel("two_halves", "const int32*", "int32*", block=64)
BLOCK_VOTES = PROGRAM.kernel("block_votes", "const int32*", "int32*", "int32*", "int32*", block=200)
WIDE_ATOMICS = PROGRAM.kernel("wide_atomics", "const int64*", "int64", "int64*", "int64*", "int64*", "uint64*")
CLAIM = PROGRAM.kernel("claim", "const int32*", "int64", "int64*", "int32*")
BITS = PROGRAM.kernel("bits", "const uint32*", "const uint64*", *["int32*"] * 4, "uint64*", block=64)
LAST_PLACES = PROGRAM.kernel("last_places", "const int64*", "int64", "const int64*", "int64", "int64*")
PRODUCT_AND_SUM = PROGRAM.kernel("product_and_sum", *["const Real*"] * 3, "int64", "Real*", types=("Real",))
LAST_BLOCK_SUMS = PROGRAM.kernel("last_block_sums", "const int64*", "int64", "int64*", "uint32*", "int64*", block=128)

RNG = np.random.default_rng(2026)
LANES = np.arange(64) % 32


@pytest.fixture
def on() -> NumpyAccelerator:
    return NumpyAccelerator()


@pytest.mark.parametrize("items", [1, 63, 64, 65, 2_047, 2_048, 9_999])
def test_every_item_is_visited_once_by_the_thread_that_strides_to_it(on: NumpyAccelerator, items: int) -> None:
    owner, visits = np.full(items, -1), np.zeros(items, np.int32)
    on.launch(STRIDE, items, items, owner, visits)
    threads = min(-(-items // 64), 2_048 // 64) * 64
    assert np.array_equal(owner, np.arange(items) % threads)
    assert (visits == 1).all()


def test_one_warp_takes_one_item(on: NumpyAccelerator) -> None:
    owner = np.full(1_000, -1)
    on.launch(WARP_ITEMS, 1_000 * 32, 1_000, owner)
    assert np.array_equal(owner, np.arange(1_000) % (2_048 // 32))


def test_edge_counters_add_up_over_blocks_and_launches(on: NumpyAccelerator) -> None:
    for items in (10, 5_000):
        on.launch(STRIDE, items, items, np.zeros(items, np.int64), np.zeros(items, np.int32))
    assert on.touched_edges == {"stride_over_items": 3 * 5_010} and on.launches == {"stride_over_items": 2}


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("items", [1, 255, 257, 50_000])
def test_block_and_warp_reductions_equal_numpy(items: int, workers: int) -> None:
    on, values = NumpyAccelerator(workers=workers), RNG.integers(-1_000, 1_000, items)
    for kernel, dtype in (
        (BLOCK_SUMS, np.float64),
        (BLOCK_SUMS, np.float32),
        (WARP_SUMS, np.int32),
        (WARP_SUMS, np.int64),
    ):
        total = np.zeros(1, dtype)
        on.launch(kernel, items, values.astype(dtype), items, total)
        assert total[0] == values.sum(), kernel.name


@pytest.mark.parametrize("width", [4, 16, 32])
def test_shuffles_stay_in_their_groups(on: NumpyAccelerator, width: int) -> None:
    values = RNG.integers(0, 1_000, 64).astype(np.int32)
    got = [np.zeros(64, np.int32) for _ in range(4)]
    on.launch(SHUFFLES, 64, values, width, *got)
    warp, group, place = np.arange(64) - LANES, LANES // width * width, LANES % width
    crosswise = LANES ^ 12
    assert np.array_equal(got[0], values[warp + group + 5 % width])
    assert np.array_equal(got[1], np.where(place + 3 < width, values[np.minimum(np.arange(64) + 3, 63)], values))
    assert np.array_equal(got[2], np.where(place >= 3, values[np.arange(64) - 3], values))
    assert np.array_equal(got[3], np.where(crosswise // width <= LANES // width, values[warp + crosswise], values))


@pytest.mark.parametrize("mask", [0xFFFFFFFF, 0x0000FFFF, 0x80000001, 0x00000400, 0x55555555])
def test_votes_count_the_lanes_of_the_mask_and_no_others(on: NumpyAccelerator, mask: int) -> None:
    values = RNG.integers(-1, 3, 64).astype(np.int32)
    ballots, equal = np.zeros(64, np.uint32), np.zeros(64, np.uint32)
    some, every = np.full(64, -1, np.int32), np.full(64, -1, np.int32)
    on.launch(PARTIAL_VOTES, 64, values, mask, ballots, some, every, equal)
    for first in (0, 32):
        warp, inside = values[first : first + 32], (mask >> np.arange(32)) & 1 == 1
        bit = np.where(inside, 1 << np.arange(32), 0)
        assert (ballots[first : first + 32] == np.where(inside, bit[warp > 0].sum(), 0)).all()
        assert (some[first : first + 32] == np.where(inside, (warp[inside] > 1).any(), -1)).all()
        assert (every[first : first + 32] == np.where(inside, (warp[inside] >= 0).all(), -1)).all()
        alike = np.array([bit[warp == value].sum() for value in warp])
        assert (equal[first : first + 32] == np.where(inside, alike, 0)).all()


def test_halves_of_a_warp_reduce_by_themselves(on: NumpyAccelerator) -> None:
    values, sums = RNG.integers(0, 100, 64).astype(np.int32), np.zeros(64, np.int32)
    on.launch(TWO_HALVES, 64, values, sums)
    assert np.array_equal(sums, np.repeat(values.reshape(4, 16).sum(axis=1), 16))


@pytest.mark.parametrize("values", [[0], [1], [0, 1, 3], [1, 2]])
def test_barriers_that_count_see_the_whole_block(on: NumpyAccelerator, values: list[int]) -> None:
    given = np.resize(np.array(values, np.int32), 200)
    count, some, every = (np.full(200, -1, np.int32) for _ in range(3))
    on.launch(BLOCK_VOTES, 200, given, count, some, every)
    assert (count == np.count_nonzero(given)).all()
    assert (some == (given > 2).any()).all() and (every == (given > 0).all()).all()


def test_64_bit_atomics_keep_every_bit(on: NumpyAccelerator) -> None:
    values = RNG.integers(np.iinfo(np.int64).min, np.iinfo(np.int64).max, 3_001)
    total, least, most, bits = np.zeros(1, np.int64), values[:1].copy(), values[:1].copy(), np.zeros(1, np.uint64)
    on.launch(WIDE_ATOMICS, 3_001, values, 3_001, total, least, most, bits)
    assert (total[0], least[0], most[0]) == (values.sum(), values.min(), values.max())
    assert bits[0] == np.bitwise_or.reduce(values.astype(np.uint64))


def test_a_slot_is_claimed_once(on: NumpyAccelerator) -> None:
    slot, owner, claimed = RNG.integers(0, 40, 5_000).astype(np.int32), np.full(40, -1), np.zeros(1, np.int32)
    on.launch(CLAIM, 5_000, slot, 5_000, owner, claimed)
    assert claimed[0] == 40 and np.array_equal(slot[owner], np.arange(40))


def test_bits_are_counted_as_on_a_device(on: NumpyAccelerator) -> None:
    words, wide = RNG.integers(0, 2**32, 64, np.uint32), RNG.integers(0, 2**64, 64, np.uint64)
    words[:3] = 0, 1, 2**31
    ones, wide_ones, zeros, first = (np.zeros(64, np.int32) for _ in range(4))
    high = np.zeros(64, np.uint64)
    on.launch(BITS, 64, words, wide, ones, wide_ones, zeros, first, high)
    assert ones.tolist() == [int(word).bit_count() for word in words]
    assert wide_ones.tolist() == [int(word).bit_count() for word in wide]
    assert zeros.tolist() == [32 - int(word).bit_length() for word in words]
    assert first.tolist() == [(int(word) & -int(word)).bit_length() for word in words]
    assert high.tolist() == [int(a) * int(b) >> 64 for a, b in zip(wide, np.roll(wide, -1), strict=True)]


def test_last_at_most_is_searchsorted(on: NumpyAccelerator) -> None:
    ascending = np.sort(RNG.integers(0, 500, 300))
    ascending[0] = 0
    values, places = np.arange(600), np.zeros(600, np.int64)
    on.launch(LAST_PLACES, 600, ascending, 300, values, 600, places)
    assert np.array_equal(places, np.searchsorted(ascending, values, side="right") - 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_are_rounded_before_they_are_added(on: NumpyAccelerator, dtype: type) -> None:
    a, b = (RNG.random(5_000).astype(dtype) for _ in range(2))
    c, result = -(a * b), np.ones(5_000, dtype)
    on.launch(PRODUCT_AND_SUM, 5_000, a, b, c, 5_000, result)
    assert (result == 0).all()


def test_fences_carry_what_the_last_block_reads(on: NumpyAccelerator) -> None:
    values, total = np.arange(10_000), np.zeros(1, np.int64)
    on.launch(LAST_BLOCK_SUMS, 2_048, values, 10_000, np.zeros(2_048, np.int64), np.zeros(1, np.uint32), total)
    assert total[0] == values.sum()


@pytest.mark.parametrize(
    ("bug", "message"),
    [
        ("deadlock", "deadlock in block 0"),
        ("different_barriers", "threads wait at different barriers"),
        ("mask_without_caller", "a mask without the lane that calls"),
        ("different_collectives", "lanes of one mask meet at different collectives"),
    ],
)
def test_what_cuda_leaves_undefined_ends_the_process_with_its_lines(bug: str, message: str) -> None:
    words = [sys.executable, str(HERE / "watch.py"), "plain", bug]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    lines = (HERE / "seeded.cu").read_text(encoding="utf-8").splitlines()
    marked = {number for number, line in enumerate(lines, start=1) if re.search(rf"// BUG {bug}\b", line)}
    assert done.returncode < 0 and message in done.stderr
    assert {int(number) for number in re.findall(r"seeded\.cu:(\d+)", done.stderr)} == marked


@pytest.mark.parametrize(
    "call",
    [
        "atomicAdd(signed_word, 1ll)",
        "atomicExch(signed_word, 1ll)",
        "atomicCAS(signed_word, 0ll, 1ll)",
        "atomicOr(signed_word, 1ll)",
        "atomicMin(real, 1.0f)",
        "atomicMax(real, 1.0f)",
        "atomicSub(word, 1ull)",
        "__shfl_down(1, 1)",
        "__ballot(1)",
    ],
)
def test_calls_that_cuda_lacks_do_not_compile(call: str) -> None:
    parameters = "long long* signed_word, unsigned long long* word, float* real"
    program = LocalProgram("lacks.cu", f"__global__ void lacks({parameters}) {{\n  {call};\n}}\n")
    program.kernel("lacks", "int64*", "uint64*", "float32*")
    with pytest.raises(KernelError, match=r"lacks\.cu:2:\d+: error"):
        NumpyAccelerator().warm(program)


def test_the_same_text_is_compiled_once(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from simt import host

    monkeypatch.setattr(host, "CACHE", tmp_path)
    first = host.shared_object(PROGRAM.source, PROGRAM.names(), PLAIN)
    made = first.stat().st_mtime_ns
    assert host.shared_object(PROGRAM.source, PROGRAM.names(), PLAIN) == first and first.stat().st_mtime_ns == made
    assert host.shared_object(PROGRAM.source + "\n", PROGRAM.names(), PLAIN) != first


def test_watch_knows_every_planted_bug() -> None:
    planted = set(re.findall(r"// BUG (\w+)", (HERE / "seeded.cu").read_text(encoding="utf-8")))
    assert planted <= set(watch.SCENARIOS)
