"""Results do not depend on the number of threads, to the last bit."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.cpu

SOLVE = """
import hashlib, numpy as np, ouroflow
rng = np.random.default_rng(3)
payer, payee = (rng.zipf(1.3, 60_000) % 4_000 for _ in range(2))
graph = ouroflow.FlowGraph.from_arrays(payer, payee, rng.integers(1, 10**6, 60_000))
components = ouroflow.components_of(graph)
exact = ouroflow.round_trip_fractions(graph, components)
limited = ouroflow.round_trip_fractions(graph, components, hops=4)
assert exact.method == "exact"
digest = hashlib.sha256()
for array in (components.labels, exact.companies.round_trip, exact.flows, limited.companies.round_trip):
    digest.update(array.tobytes())
print(components.largest, digest.hexdigest())
"""


def solved(threads: int) -> str:
    # Threads of BLAS and of numba follow these; the others follow the processors that the process may use.
    settings = {name: str(threads) for name in ("OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS")}
    pin = f"import os; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:{threads}])\n"
    command = [sys.executable, "-c", pin + SOLVE]
    return subprocess.run(command, env={**os.environ, **settings}, check=True, capture_output=True, text=True).stdout


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin a process to processors")
def test_one_thread_and_all_threads_give_the_same_bits() -> None:
    one, *others = (solved(threads) for threads in (1, 2, 2))
    assert int(one.split()[0]) > 1_000
    assert set(others) == {one}
