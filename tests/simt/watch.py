"""Kernels under ThreadSanitizer and AddressSanitizer.

`watch` starts this file as a process of its own (a sanitizer must be loaded before Python), lets it run scenarios, and
returns what the sanitizer said in each. A scenario is a function of an accelerator: a launch of one kernel with a planted
bug, or a whole GPU twin on a small graph.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as pytest does it

from simt.host import ADDRESS_SANITIZER, PLAIN, THREAD_SANITIZER, HostAccelerator, LocalProgram, NumpyAccelerator

if TYPE_CHECKING:
    from ouroflow.graph_gpu import DeviceGraph

SANITIZERS = {"thread": THREAD_SANITIZER, "address": ADDRESS_SANITIZER}
FLAGS = {"plain": PLAIN, **SANITIZERS}
LIBRARIES = {"thread": "libtsan.so", "address": "libasan.so"}
FOUND = 66
"""Exit code after a report."""

# ThreadSanitizer goes on after a report, and tells of two races at one address (NumPy hands out the same memory again).
# AddressSanitizer ends the process: after a stray write nothing can be trusted, its own records included.
OPTIONS = {
    "TSAN_OPTIONS": f"halt_on_error=0:exitcode={FOUND}:suppress_equal_addresses=0:ignore_noninstrumented_modules=1",
    "ASAN_OPTIONS": f"exitcode={FOUND}:detect_leaks=0:detect_stack_use_after_return=0",
    "UBSAN_OPTIONS": f"exitcode={FOUND}",
}
MARK = "=== scenario "
HARMLESS = "WARNING: ASan doesn't fully support makecontext/swapcontext"

# Small on purpose: ThreadSanitizer wants an OS thread per block and a fiber per thread.
RESIDENT_THREADS = 512

Scenario = Callable[[Any], None]
Ends = tuple[np.ndarray, np.ndarray, int]  # payer, payee, companies


# ---- the watching side -----------------------------------------------------------------------------------------------


@functools.cache
def command(sanitizer: str) -> tuple[str, ...]:
    """Return the words that start Python under a sanitizer.

    Raises
    ------
    RuntimeError
        With the reason, if that cannot be done on this machine.
    """
    library = _output(["g++", f"-print-file-name={LIBRARIES[sanitizer]}"])
    if not os.path.isabs(library):
        raise RuntimeError(f"g++ comes without {LIBRARIES[sanitizer]}")
    python = ("env", f"LD_PRELOAD={library}", sys.executable)
    # ThreadSanitizer refuses address layouts that are too random; without setarch's leave to change that it cannot run.
    said = ""
    for prefix in ((), ("setarch", "-R")):
        try:
            done = subprocess.run([*prefix, *python, "-c", "pass"], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            continue
        if done.returncode == 0:
            return (*prefix, *python)
        said = said or done.stderr.strip()
    raise RuntimeError(f"Python does not start under {LIBRARIES[sanitizer]}: {said[:200]}")


def unusable() -> str | None:
    """Return why a sanitizer cannot run on this machine, or None when both can."""
    try:
        for sanitizer in SANITIZERS:
            command(sanitizer)
    except RuntimeError as error:
        return str(error)
    return None


@dataclass(frozen=True)
class Watched:
    """What a sanitizer said in each scenario that was begun (nothing when all was well), and the kernels that ran."""

    said: dict[str, str]
    launched: set[str]


def watch(sanitizer: str, scenarios: Iterable[str]) -> Watched:
    """Run scenarios under a sanitizer, in one process.

    Raises
    ------
    AssertionError
        If the process ended in another way than by a report.
    """
    names = list(scenarios)
    words = [*command(sanitizer), str(Path(__file__).resolve()), sanitizer, *names]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **OPTIONS}, check=False)
    said = {}
    for part in done.stderr.split(MARK)[1:]:
        name, _, text = part.partition("\n")
        said[name] = "\n".join(line for line in text.splitlines() if HARMLESS not in line).strip()
    if done.returncode not in (0, FOUND) or (done.returncode == 0 and list(said) != names):
        raise AssertionError(f"{sanitizer}: exit code {done.returncode} after {list(said)}\n{done.stderr[-4000:]}")
    return Watched(said, set(done.stdout.split()))


def _output(words: list[str]) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


# ---- planted bugs and their right forms --------------------------------------------------------------------------------


def _payers(flows: int, companies: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, companies, flows).astype(np.int32)


SEEDED = LocalProgram("seeded.cu")
COLLECTIVES = LocalProgram("collectives.cu")

LOST_UPDATE = SEEDED.kernel("lost_update", "const Index*", "int64", "int32*", types=("Index",), block=64)
RACE_BETWEEN_BLOCKS = SEEDED.kernel("race_between_blocks", "const int64*", "int64", "int64*", block=64)
MISSING_BARRIER = SEEDED.kernel("missing_barrier", "const int32*", "int32*", block=64)
MISSING_SECOND_BARRIER = SEEDED.kernel("missing_second_barrier", "const int32*", "int32*", block=64)
SHUFFLE_IS_NO_BARRIER = SEEDED.kernel("shuffle_is_no_barrier", "const int32*", "int32*", block=32)
PLAIN_READ_OF_ATOMIC = SEEDED.kernel("plain_read_of_atomic", "const int32*", "int64", "int32*", "int32*", block=64)
PUBLISH_WITHOUT_FENCE = SEEDED.kernel("publish_without_fence", "int64*", "int32*", "int64*", block=32)
WRITE_PAST_END = SEEDED.kernel("write_past_end", "const Index*", "int64", "int32*", types=("Index",), block=64)
READ_PAST_END = SEEDED.kernel("read_past_end", "const int64*", "int64", "int64*", block=64)
WRITE_BEFORE_START = SEEDED.kernel("write_before_start", "const int32*", "int64", "int32*", block=64)
PAST_SHARED_END = SEEDED.kernel("past_shared_end", "const int32*", "int32*", block=33)
SHIFT_PAST_WIDTH = SEEDED.kernel("shift_past_width", "const int32*", "int64", "uint64*", block=64)
DEADLOCK = SEEDED.kernel("deadlock", "int32*", block=64)
DIFFERENT_BARRIERS = SEEDED.kernel("different_barriers", "int32*", block=64)
MASK_WITHOUT_CALLER = SEEDED.kernel("mask_without_caller", "int32*", block=32)
DIFFERENT_COLLECTIVES = SEEDED.kernel("different_collectives", "int32*", block=32)

COUNTS = COLLECTIVES.kernel("claim", "const int32*", "int64", "int64*", "int32*", block=64)
BLOCK_SUMS = COLLECTIVES.kernel("block_sums", "const Real*", "int64", "Real*", types=("Real",), block=64)
WARP_SUMS = COLLECTIVES.kernel("warp_sums", "const Index*", "int64", "Index*", types=("Index",), block=64)
LAST_BLOCK_SUMS = COLLECTIVES.kernel(
    "last_block_sums", "const int64*", "int64", "int64*", "uint32*", "int64*", block=64
)


def lost_update(on: NumpyAccelerator) -> None:
    on.launch(LOST_UPDATE, 400, _payers(400, 50), 400, np.zeros(50, np.int32))


def race_between_blocks(on: NumpyAccelerator) -> None:
    on.launch(RACE_BETWEEN_BLOCKS, 256, np.arange(1000), 1000, np.zeros(1, np.int64))


def missing_barrier(on: NumpyAccelerator) -> None:
    on.launch(MISSING_BARRIER, 64, np.ones(64, np.int32), np.zeros(1, np.int32))


def missing_second_barrier(on: NumpyAccelerator) -> None:
    on.launch(MISSING_SECOND_BARRIER, 64, np.ones(64, np.int32), np.zeros(64, np.int32))


def shuffle_is_no_barrier(on: NumpyAccelerator) -> None:
    on.launch(SHUFFLE_IS_NO_BARRIER, 32, np.ones(32, np.int32), np.zeros(32, np.int32))


def plain_read_of_atomic(on: NumpyAccelerator) -> None:
    on.launch(PLAIN_READ_OF_ATOMIC, 400, _payers(400, 5), 400, np.zeros(5, np.int32), np.zeros(400, np.int32))


def publish_without_fence(on: NumpyAccelerator) -> None:
    on.launch(PUBLISH_WITHOUT_FENCE, 64, np.zeros(1, np.int64), np.zeros(1, np.int32), np.zeros(1, np.int64))


def write_past_end(on: NumpyAccelerator) -> None:
    on.launch(WRITE_PAST_END, 300, _payers(300, 50), 300, np.zeros(300, np.int32))


def read_past_end(on: NumpyAccelerator) -> None:
    on.launch(READ_PAST_END, 300, np.zeros(300, np.int64), 300, np.zeros(300, np.int64))


def write_before_start(on: NumpyAccelerator) -> None:
    on.launch(WRITE_BEFORE_START, 300, _payers(300, 20), 300, np.zeros(20, np.int32))


def past_shared_end(on: NumpyAccelerator) -> None:
    on.launch(PAST_SHARED_END, 33, np.ones(33, np.int32), np.zeros(33, np.int32))


def shift_past_width(on: NumpyAccelerator) -> None:
    on.launch(SHIFT_PAST_WIDTH, 100, np.arange(40, dtype=np.int32), 40, np.zeros(1, np.uint64))


def deadlock(on: NumpyAccelerator) -> None:
    on.launch(DEADLOCK, 64, np.zeros(64, np.int32))


def different_barriers(on: NumpyAccelerator) -> None:
    on.launch(DIFFERENT_BARRIERS, 64, np.zeros(64, np.int32))


def mask_without_caller(on: NumpyAccelerator) -> None:
    on.launch(MASK_WITHOUT_CALLER, 32, np.zeros(32, np.int32))


def different_collectives(on: NumpyAccelerator) -> None:
    on.launch(DIFFERENT_COLLECTIVES, 32, np.zeros(32, np.int32))


def right_atomics(on: NumpyAccelerator) -> None:
    owner, claimed = np.full(50, -1), np.zeros(1, np.int32)
    on.launch(COUNTS, 400, _payers(400, 50), 400, owner, claimed)
    assert claimed[0] == 50


def right_reductions(on: NumpyAccelerator) -> None:
    values = np.arange(5_000)
    for kernel, dtype in ((WARP_SUMS, np.int64), (WARP_SUMS, np.int32), (BLOCK_SUMS, np.float64)):
        total = np.zeros(1, dtype)
        for _ in range(3):  # shared memory and fibers are used again
            on.launch(kernel, 5_000, values.astype(dtype), 5_000, total)
        assert total[0] == 3 * values.sum()


def right_fences(on: NumpyAccelerator) -> None:
    total = np.zeros(1, np.int64)
    on.launch(LAST_BLOCK_SUMS, 300, np.arange(5_000), 5_000, np.zeros(512, np.int64), np.zeros(1, np.uint32), total)
    assert total[0] == 5_000 * 4_999 // 2


# ---- the GPU twins ------------------------------------------------------------------------------------------------------


def _giant(companies: int = 300, flows: int = 1_200) -> Ends:
    """A giant component with a hub, small ones, and much that trimming takes away."""
    rng = np.random.default_rng(11)
    payer = (rng.random(flows) ** 2 * companies).astype(np.int64)
    return payer, rng.integers(0, companies, flows), companies


def _long_cycle(companies: int = 250) -> Ends:
    """A cycle through most companies with a few chords, and a chain that leads into it."""
    payer = np.arange(companies)
    payee = np.where(payer == companies - 1, 60, payer + 1)
    chords = np.random.default_rng(12).integers(60, companies, (2, 12))
    return np.concatenate([payer, chords[0]]), np.concatenate([payee, chords[1]]), companies


def _local(companies: int = 400) -> Ends:
    """Neighbours pay each other: many components of a few companies."""
    rng = np.random.default_rng(13)
    payer = rng.integers(0, companies, companies * 13 // 10)
    return payer, np.minimum(payer + rng.integers(-3, 4, payer.size), companies - 1) % companies, companies


def _hubs(companies: int = 300) -> Ends:
    """Everybody pays two hubs and is paid by them: rows too long for one warp."""
    each = np.arange(companies)
    few = np.random.default_rng(14).integers(0, companies, (2, companies))
    payer = np.concatenate([each, each, each * 0, each * 0 + 1, few[0]])
    return payer, np.concatenate([each * 0, each * 0 + 1, each, each, few[1]]), companies


def _components_of(ends: Ends) -> np.ndarray:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    payer, payee, companies = ends
    flows = csr_array((np.ones(payer.size), (payer, payee)), shape=(companies, companies))
    return connected_components(flows, connection="strong")[1]


def _check_components(on: HostAccelerator, ends: Ends, ids: type, **plan: float) -> None:
    from ouroflow.components.gpu import Plan, components_of_flows

    payer, payee, companies = ends
    here = (on.to_device(part.astype(ids)) for part in (payer, payee))
    found, sizes = components_of_flows(on, *here, companies, plan=Plan(**plan))
    labels, expected = on.to_host(found), _components_of(ends)
    pairs = np.unique(labels.astype(np.int64) * companies + expected)
    assert len(pairs) == len(np.unique(labels)) == expected.max() + 1
    assert sizes.tolist() == sorted((size for size in np.bincount(expected).tolist() if size > 1), reverse=True)


def _graph(on: HostAccelerator, ends: Ends) -> DeviceGraph:
    from ouroflow.graph_gpu import DeviceGraph

    payer, payee, companies = ends
    amounts = np.random.default_rng(15).integers(1, 10**6, payer.size)
    return DeviceGraph.from_payments(on, payer, payee, amounts, companies=companies)


def components_as_they_come(on: HostAccelerator) -> None:
    for ends, ids in ((_giant(), np.int32), (_long_cycle(), np.int32), (_local(), np.int64)):
        _check_components(on, ends, ids)


def components_by_signatures(on: HostAccelerator) -> None:
    for ends in (_giant(), _long_cycle(), _local()):
        _check_components(on, ends, np.int32, host_tail=0, levels=2, doubling_every=2)


def components_of_chains(on: HostAccelerator) -> None:
    for ids in (np.int32, np.int64):
        _check_components(on, _long_cycle(), ids, trim_rounds=1, small_rows=0, long_row=1)


def components_by_wide_frontiers(on: HostAccelerator) -> None:
    """No block goes on by itself, and rows are long from five flows on."""
    for ends, ratio in ((_giant(), 14), (_giant(), 2), (_giant(), 10**6), (_local(), 14)):
        _check_components(on, ends, np.int32, small_rows=0, small_flows=0, long_row=4, pull_ratio=ratio, host_tail=0)


# The twins of the CPU are not asked here: numba would compile them under the sanitizer. They are compared in the host lane.


def push_on_long_rows(on: HostAccelerator) -> None:
    from ouroflow.roundtrip.push import push_returns, two_hop_returns

    for ends, asked in (
        (_hubs(), {"hops": 3}),
        (_hubs(), {"tolerance": 1e-2}),
        (_giant(200, 700), {"tolerance": 1e-2}),
    ):
        graph = _graph(on, ends)
        found = push_returns(graph, _components_of(ends), np.arange(40), **asked)
        assert (found.low <= found.high).all() and found.high.max() > 0
        assert len(two_hop_returns(graph)) == graph.flows


def sweeps_of_dense_cores(on: HostAccelerator) -> None:
    from ouroflow.roundtrip.gpu_exact import DeviceExact

    moves = np.random.default_rng(16).random((70, 71))
    np.fill_diagonal(moves, 0)
    moves /= moves.sum(axis=1, keepdims=True)
    core = np.asfortranarray(moves[:, :70])
    DeviceExact(on, blocks=(40, 20)).visits_of_core(core, moves[:, 70].copy())
    assert np.allclose(core, np.linalg.inv(np.eye(70) - moves[:, :70]), rtol=1e-9)


def walks_on_flows_and_on_alias_rows(on: HostAccelerator) -> None:
    from ouroflow.roundtrip.walks import walk_companies, walk_returns

    for ends in (_hubs(), _giant(), _long_cycle()):
        graph, labels = _graph(on, ends), _components_of(ends)
        for asked in ({"walks": 50}, {"walks": 4_000}, {"walks": 500, "hops": 4}):
            assert int(walk_returns(graph, labels, seed=3, **asked).returned.sum()) >= 0
        assert (walk_companies(graph, labels, np.arange(2, 7), seed=4, tolerance=0.1).value >= 0).all()


BUGS: dict[str, tuple[Scenario, ...]] = {
    "thread": (
        lost_update,
        race_between_blocks,
        missing_barrier,
        missing_second_barrier,
        shuffle_is_no_barrier,
        plain_read_of_atomic,
        publish_without_fence,
    ),
    "address": (write_past_end, read_past_end, write_before_start, past_shared_end, shift_past_width),
}
"""What each sanitizer must find."""

FATAL: tuple[Scenario, ...] = (deadlock, different_barriers, mask_without_caller, different_collectives)
"""What ends the process in every lane, with a message of the shim's own."""

RIGHT: tuple[Scenario, ...] = (right_atomics, right_reductions, right_fences)
TWINS: tuple[Scenario, ...] = (
    components_as_they_come,
    components_by_signatures,
    components_of_chains,
    components_by_wide_frontiers,
    push_on_long_rows,
    sweeps_of_dense_cores,
    walks_on_flows_and_on_alias_rows,
)
"""Where both sanitizers must keep quiet."""

SCENARIOS = {scenario.__name__: scenario for scenario in (*BUGS["thread"], *BUGS["address"], *FATAL, *RIGHT, *TWINS)}


def main() -> None:
    """Run the scenarios that the command line names, each announced on stderr; print the kernels that ran."""
    lane, *names = sys.argv[1:]
    settings: dict[str, Any] = {"flags": FLAGS[lane], "resident_threads": RESIDENT_THREADS}
    twins, plain = HostAccelerator(**settings), NumpyAccelerator(**settings)
    for name in names:
        print(f"{MARK}{name}", file=sys.stderr, flush=True)
        SCENARIOS[name](twins if SCENARIOS[name] in TWINS else plain)
    print(*(twins.launches + plain.launches))


if __name__ == "__main__":
    main()
