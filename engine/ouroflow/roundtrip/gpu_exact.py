"""Exact return fractions with the dense work on a device: small components at once, and the core of large ones.

Small components are swept by one block of threads each, of whatever sizes, in one launch. Large ones are eliminated on
the host as ever (`cpu_elimination`), in lists that no device would walk faster; their dense core is swept here, in
blocks whose updates are products of matrices (cuBLAS). The core is not solved by LU factors (cuSOLVER), because I - P
subtracts: where money hardly leaks, 1 - P_vv loses the digits that the leak stands in, and no later step brings them
back. The sweeps only ever add non-negative numbers (see `cpu_core`), and a product of non-negative matrices keeps the
relative accuracy of every entry in whatever order it is added; so both twins agree to the last digits.

Device memory: 8 bytes per entry of the dense chains, 44 per company and 56 per flow of the small components swept at
once; for a core of k companies 8 k^2 and 8 k x (3 x 512 + 2 x 2048) bytes. Time: 2 k^3 operations, and 32 k^2 bytes moved
for every 512 companies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from ouroflow.roundtrip import cpu_exact
from ouroflow.roundtrip.cpu_elimination import CoreSolver
from ouroflow.roundtrip.cpu_exact import DenseChains, ExactReturns
from ouroflow.roundtrip.gpu_push import SWEEP_CHAINS
from ouroflow.runtime.memory import available_bytes

if TYPE_CHECKING:
    from ouroflow.graph import Ids, IntraFlows
    from ouroflow.runtime.launch import Accelerator, Array

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_BLOCKS = (512, 64)  # companies swept together by products, those of a block again in blocks, and these by the kernel
_STRIP = 2048  # rows of the core that are updated, or columns that cross to the device, at once
_BATCH_BYTES = 1 << 30  # small components swept at once
_FLOPS_TO_LEAVE = 400_000.0
"""Price of a pair in lists (see `cpu_elimination`) in operations of a device: 10 ns on the host, 40 TFLOP/s in float64 there.

An assumption from data sheets, not measured on a device. Only the CPU goes on eliminating in the dense core (`cpu_dense`): a
pair that costs 250 operations of its BLAS would cost nearly 200,000 of a device's, and k companies cost 6 k^2 each there.
"""


@dataclass(frozen=True)
class DeviceExact:
    """The exact method with its dense work on an accelerator.

    Parameters
    ----------
    on : Accelerator
    blocks : tuple of int
        Companies of the core swept together, from the outermost block to those that one block of threads sweeps.
    flops_to_leave : float
        Price of a pair in lists, see `cpu_elimination.CoreSolver`.
    batch_bytes : int
        Memory of the small components that are swept at once.
    """

    on: Accelerator
    blocks: tuple[int, ...] = _BLOCKS
    flops_to_leave: float = _FLOPS_TO_LEAVE
    batch_bytes: int = _BATCH_BYTES

    TRY_CORE: ClassVar[int] = cpu_exact.TRY_CORE
    """The CPU twin's, though a device could afford more: which method answers must not depend on the device, or the figures of a
    run would. Who insists on exact figures (tolerance 0) gets the core that fits."""

    def exact_small(self, intra: IntraFlows, throughflow: Int64s, components: Int64s) -> ExactReturns:
        """Solve many small components, as `cpu_exact.exact_small`.

        Raises
        ------
        ResourceError
            If the device has not the memory for one of them.
        """
        batches = self._batches(intra, components)
        return cpu_exact.solve_batches(intra, throughflow, batches, self._sweep_all)

    def exact_returns(
        self, offsets: Int64s, payee: Ids, amount: Int64s, throughflow: Int64s, *, core_limit: int | None = None
    ) -> ExactReturns | None:
        """Solve one component, as `cpu_exact.exact_returns`; closed ones return everything exactly.

        Raises
        ------
        ResourceError
            If the device has not the memory for the core.
        """
        solver = CoreSolver(self.visits_of_core, self.flops_to_leave)
        return cpu_exact.exact_returns(offsets, payee, amount, throughflow, core_limit=core_limit, solver=solver)

    def core_that_fits(self) -> int:
        """Return how large a core fits: here with the work space, on the host at 8 bytes an entry and a fifth for the rest."""
        work = self._work_bytes(1)
        # The root of 8 k^2 + work k = free bytes.
        device = (math.isqrt(work**2 + 32 * self.on.free_bytes()) - work) // 16
        return min(device, math.isqrt(available_bytes() // 10))

    def visits_of_core(self, chain: Floats, leak: Floats) -> None:
        """Overwrite a dense chain P with N = (I - P)^-1.

        Parameters
        ----------
        chain : float64[k, k], Fortran order, on the host
            ``chain[i, j]``: probability of moving i -> j. The diagonal is not read.
        leak : float64[k]
            Probability of leaving for good.
        """
        companies = leak.size
        self.on.require(8 * companies**2 + self._work_bytes(companies), f"the dense core of {companies:,} companies")
        core = self.on.xp.empty((companies, companies))
        strips = [slice(at, min(at + _STRIP, companies)) for at in range(0, companies, _STRIP)]
        for strip in strips:
            core[:, strip] = self.on.to_device(chain[:, strip])
        self._sweep(core, self.on.to_device(leak), self.blocks)
        for strip in strips:
            chain[:, strip] = self.on.to_host(core[:, strip])

    def _work_bytes(self, companies: int) -> int:
        return 8 * companies * (3 * self.blocks[0] + 2 * _STRIP)

    def _sweep(self, chain: Array, leak: Array, blocks: tuple[int, ...]) -> None:
        """Sweep a chain in blocks of `blocks[0]` companies, as `cpu_core.sweep`; without blocks, by the kernel."""
        if not blocks:
            self._sweep_one(chain, leak)
            return
        xp, companies = self.on.xp, chain.shape[0]
        for start in range(0, companies, blocks[0]):
            stop = min(start + blocks[0], companies)
            rows = chain[start:stop].copy()
            columns = chain[:, start:stop].copy()
            visits = rows[:, start:stop].copy()
            # What leaves the block, other than back into what is already swept.
            away = rows[:, stop:].sum(axis=1) + leak[start:stop]
            self._sweep(visits, away, blocks[1:])
            columns = xp.matmul(columns, visits)
            leak[stop:] += xp.matmul(columns[stop:], leak[start:stop])
            # Strip by strip, so that the product is never as large as the chain. The block's own rows and columns are set after.
            for at in range(0, companies, _STRIP):
                chain[at : at + _STRIP] += xp.matmul(columns[at : at + _STRIP], rows)
            chain[start:stop] = xp.matmul(visits, rows)
            chain[:, start:stop] = columns
            chain[start:stop, start:stop] = visits

    def _sweep_one(self, chain: Array, leak: Array) -> None:
        xp, companies = self.on.xp, chain.shape[0]
        zero, size = xp.zeros(1, np.int64), xp.full(1, companies, np.int32)
        self.on.launch(
            SWEEP_CHAINS, SWEEP_CHAINS.block, zero, zero, size, 1, chain, leak, xp.empty(companies), xp.empty(companies)
        )

    def _batches(self, intra: IntraFlows, components: Int64s) -> Iterator[Int64s]:
        """Cut a list of components into batches that are swept at once."""
        bytes_of = _bytes_of(intra, components)
        most = min(self.batch_bytes, self.on.free_bytes() // 2)
        start = 0
        while start < components.size:
            count = max(1, int(np.searchsorted(np.cumsum(bytes_of[start:]), most, side="right")))
            batch = slice(start, start + count)
            self.on.require(int(bytes_of[batch].sum()), f"{count:,} small components")
            yield components[batch]
            start += count

    def _sweep_all(self, chains: DenseChains) -> Floats:
        """Sweep chains of any sizes, and return N_ji / N_ii for each flow i -> j, on the host."""
        on, xp, sizes = self.on, self.on.xp, chains.sizes
        leak = on.to_device(chains.leak)
        entries = xp.zeros(int(np.sum(sizes**2)))
        entries[on.to_device(chains.forth)] = on.to_device(chains.probability)
        on.launch(
            SWEEP_CHAINS, sizes.size * SWEEP_CHAINS.block, on.to_device(np.cumsum(sizes**2) - sizes**2),
            on.to_device(np.cumsum(sizes) - sizes), on.to_device(sizes.astype(np.int32)), sizes.size, entries, leak,
            xp.empty_like(leak), xp.empty_like(leak),
        )  # fmt: skip
        returns: Any = entries[on.to_device(chains.back)] / entries[on.to_device(chains.own)]
        return on.to_host(returns)


def _bytes_of(intra: IntraFlows, components: Int64s) -> Int64s:
    """Return what sweeping each component takes: its chain, its work space, and its flows."""
    sizes = np.diff(intra.company_offsets)[components]
    first = intra.company_offsets[components]
    flows = intra.flow_offsets[first + sizes] - intra.flow_offsets[first]
    return 8 * sizes**2 + 44 * sizes + 56 * flows
