"""What the searches leave: a list of flows, settled by signatures and at last on the host."""

from __future__ import annotations

import itertools

import numpy as np

from ouroflow.components.gpu_kernels import (
    BEGIN_SIGNATURES,
    COUNT_MEMBERS,
    DOUBLE_PATHS,
    FINISH_PLACES,
    JUMP_SIGNATURES,
    KEEP_INNER_FLOWS,
    KEEP_LIVE_FLOWS,
    KEEP_UNDECIDED_FLOWS,
    LINK_FLOWS,
    LIST_MEMBERS,
    MARK_ENDS,
    PICK_PATHS,
    RENUMBER_ENDS,
    SPREAD_SIGNATURES,
)
from ouroflow.components.gpu_search import Index, Plan, shorten_links
from ouroflow.runtime.launch import Accelerator, Array, Kernel


class Rest:
    """Flows among companies that no component is known of, the companies renumbered as places.

    Parameters
    ----------
    outgoing : Index
        All flows by payer.
    rest : uint32[words]
        The companies, as a bitmap; each pays somebody.
    split : uint32[words]
        A set that no component lies across.

    Attributes
    ----------
    members : Index[places]
        The company of each place.
    payer, payee : Index[flows]
        The places at both ends of each flow.
    """

    def __init__(self, on: Accelerator, outgoing: Index, rest: Array, split: Array, plan: Plan) -> None:
        xp = on.xp
        self.on, self.plan = on, plan
        self._tally = xp.zeros(3, xp.int64)
        self._passes = 0
        offsets, payee = outgoing
        companies, ids = offsets.size - 1, payee.dtype
        counts = xp.empty(rest.size, xp.int64)
        on.launch(COUNT_MEMBERS, rest.size, rest, rest.size, counts)
        total = xp.cumsum(counts)
        places = int(on.to_host(total[-1:])[0])
        before = total - counts
        on.require((6 * ids.itemsize + 4) * places, f"{places} companies outside the largest component")
        self.members, lengths = xp.empty(places, ids), xp.empty(places, xp.uint32)
        on.launch(LIST_MEMBERS, companies, rest, before, companies, offsets, self.members, lengths)
        ends = xp.cumsum(lengths, dtype=xp.int64)
        flows = int(on.to_host(ends[-1:])[0]) if places else 0
        on.require(4 * ids.itemsize * flows, f"{flows} flows of companies outside the largest component")
        self.payer, self.payee = xp.empty(flows, ids), xp.empty(flows, ids)
        rows = offsets, payee, self.members, ends, places, flows
        self._tally.fill(0)
        kept = self.payer, self.payee, self._tally
        on.launch(KEEP_INNER_FLOWS, flows, *rows, rest, split, before, *kept)
        self.payer, self.payee = self._cut(self.payer, self.payee)
        self._spare = xp.empty_like(self.payer), xp.empty_like(self.payee)

    def settle(self, component: Array) -> None:
        """Name the component of each company in `component` by one of its members; those alone stay their own."""
        for _ in range(self.plan.signature_rounds):
            self._cut_chains()
            if self._is_for_host() or not self._by_signatures(component):
                break
        self._on_host(component)

    def _is_for_host(self) -> bool:
        return bool(self.payer.size <= self.plan.host_tail)

    def _cut_chains(self) -> None:
        """Drop flows at companies that pay nobody or are paid by nobody, and all along chains of such, while it pays."""
        while not self._is_for_host():
            before = self.payer.size
            nobody = [self.on.xp.full(self.members.size, -1, self.payer.dtype) for _ in range(2)]
            self.on.launch(LINK_FLOWS, before, self.payer, self.payee, before, *nobody)
            for link in nobody:
                shorten_links(self.on, link, self._tally)
            self._keep(KEEP_LIVE_FLOWS, *nobody)
            if self.payer.size >= (1 - self.plan.sweep_worth) * before:
                return

    def _by_signatures(self, component: Array) -> bool:
        """Settle at least one component in each part that hangs together; False once the passes are used up.

        Each company takes as signatures the largest number that reaches it and the largest that it reaches. Where both
        agree it shares a component with the company of that number. A flow whose ends differ lies in no component.
        """
        on, places, flows = self.on, self.members.size, self.payer.size
        bits = max(1, (places - 1).bit_length())
        signatures = on.xp.empty_like(self.members), on.xp.empty_like(self.members)
        on.launch(BEGIN_SIGNATURES, places, places, bits, *signatures)
        doubling_due = 0
        for done in itertools.count():
            if self._passes >= self.plan.signature_passes:
                return False
            self._passes += 1
            if done == doubling_due:
                doubling_due = 2 * done + self.plan.doubling_every
                self._double(*signatures)
            self._tally.fill(0)
            on.launch(SPREAD_SIGNATURES, flows, self.payer, self.payee, flows, *signatures, self._tally)
            on.launch(JUMP_SIGNATURES, places, places, bits, *signatures, self._tally)
            if not on.to_host(self._tally)[2]:
                break
        on.launch(FINISH_PLACES, places, places, bits, *signatures, self.members, component)
        self._keep(KEEP_UNDECIDED_FLOWS, *signatures)
        return True

    def _double(self, reached_by: Array, reaches: Array) -> None:
        """Send all signatures along one path up and one path down from each place, however long.

        Signatures followed like pointers are not enough on long cycles: once a large number has overtaken the largest
        by a short cut, the largest can only follow it from flow to flow, for nothing points to where it must go.
        """
        on, xp, places, flows = self.on, self.on.xp, self.members.size, self.payer.size
        up, down = (xp.arange(places, dtype=self.payer.dtype) for _ in range(2))
        on.launch(PICK_PATHS, flows, self.payer, self.payee, flows, up, down)
        spare = xp.empty_like(up)
        for path, signatures in ((up, (reached_by, reaches)), (down, (reaches, reached_by))):
            for _ in range(places.bit_length()):
                on.launch(DOUBLE_PATHS, places, path, spare, places, *signatures)
                path, spare = spare, path

    def _keep(self, kernel: Kernel, *by: Array) -> None:
        """Filter the flows, and leave out the places that have none left."""
        flows = self.payer.size
        self._tally.fill(0)
        self.on.launch(kernel, flows, self.payer, self.payee, flows, *by, *self._spare, self._tally)
        kept = self._cut(*self._spare)
        self._spare = self.payer, self.payee
        self.payer, self.payee = kept
        if kept[0].size < flows:
            self._renumber()

    def _renumber(self) -> None:
        """Leave out the places without flows."""
        xp, flows = self.on.xp, self.payer.size
        ends = self.payer, self.payee, flows
        marks = xp.zeros(self.members.size, xp.uint8)
        self.on.launch(MARK_ENDS, flows, *ends, marks)
        self.on.launch(RENUMBER_ENDS, flows, *ends, xp.cumsum(marks, dtype=xp.int64))
        self.members = self.members[marks.view(xp.bool_)]

    def _cut(self, payer: Array, payee: Array) -> tuple[Array, Array]:
        """Return the flows that the last launch kept."""
        flows = int(self.on.to_host(self._tally)[1])
        return payer[:flows], payee[:flows]

    def _on_host(self, component: Array) -> None:
        """Let the CPU twin finish."""
        from ouroflow.components import cpu

        if not self.payer.size:
            return
        self._renumber()
        places = self.members.size
        flows = self.on.to_host(self.payer), self.on.to_host(self.payee)
        labels, _ = cpu.components_of_flows(*flows, places)
        # Of several places with one label the last write counts: the smallest place.
        first = np.empty(places, labels.dtype)
        first[labels[::-1]] = np.arange(places - 1, -1, -1)
        component[self.members] = self.members[self.on.to_device(first[labels])]
