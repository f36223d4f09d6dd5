"""Trimming and searching along the indexes of a graph, one frontier of companies after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ouroflow.components.gpu_kernels import (
    BEGIN_TRIM,
    CUT_CHAINS,
    JUMP_LINKS,
    LINK_CHAINS,
    PULL_LEVEL,
    PULL_LONG_ROWS,
    PUSH_LEVEL,
    PUSH_SMALL,
    RELEASE_ROWS,
    RELEASE_SMALL,
    SMALL_BLOCK,
)
from ouroflow.runtime.launch import Accelerator, Array, Kernel

Index = tuple[Array, Array]
"""Flows by one end, on the device: int64 offsets[companies + 1] of each company's flows, and their other ends."""

WORD = 32
"""Companies of one word of a bitmap."""


@dataclass(frozen=True)
class Plan:
    """When to go over from one way to the next; no choice changes the labels.

    Attributes
    ----------
    trim_rounds : int
        Launches of trimming before chains are cut.
    chain_rounds : int
        How often chains are cut, and trimming goes on.
    small_rows, small_flows : int
        Up to so many companies with so many flows, a frontier is left to one block, which goes on by itself.
    small_rounds : int
        Rounds that this block goes on for; a search whose frontier is as small after them is given up, for its graph
        is one of long paths.
    patience : int
        A search is granted so many rounds once more for each so many flows: the rest costs more if it is given up.
    levels : int
        Launches after which a search is given up.
    pull_ratio : int
        A level is searched from the companies not reached yet once the frontier has more than one in so many of the
        flows that no search has read.
    long_row : int
        Flows of a company beyond which one warp is not left alone with them.
    sweep_worth : float
        Share of its flows that cutting chains must take from the rest to be done again.
    signature_rounds, signature_passes : int
        Rounds of signatures, and passes of all rounds together, before the host takes what is left.
    doubling_every : int
        Passes before signatures are sent along whole paths once more; the time after it takes twice as many, and so on.
    host_tail : int
        Flows that the host settles.
    """

    trim_rounds: int = 64
    chain_rounds: int = 4
    small_rows: int = 256
    small_flows: int = 4096
    small_rounds: int = 256
    patience: int = 10_000_000
    levels: int = 64
    pull_ratio: int = 14
    long_row: int = 4096
    sweep_worth: float = 0.1
    signature_rounds: int = 100
    signature_passes: int = 10_000
    doubling_every: int = 16
    host_tail: int = 200_000


class Frontier:
    """The rows whose flows are read next, and room for those of the round after.

    Attributes
    ----------
    rows, flows : int
        How many rows, and how many flows they have together.
    tally : int64[3] on the device
        What a launch found: rows, flows, rounds.
    """

    def __init__(self, on: Accelerator, companies: int, ids: Any) -> None:
        self.on = on
        self._current = on.xp.empty(companies, ids), on.xp.empty(companies, on.xp.uint32)
        self._other = on.xp.empty(companies, ids), on.xp.empty(companies, on.xp.uint32)
        self.tally = on.xp.zeros(3, on.xp.int64)
        self.rows = self.flows = 0

    def start(self, company: int, flows: int) -> None:
        """Begin with what one company pays (or is paid by)."""
        self._current[0][0], self._current[1][0] = company, flows
        self.rows, self.flows = 1, flows

    def is_small(self, plan: Plan) -> bool:
        """Tell whether one block had better go on by itself."""
        return self.rows <= plan.small_rows and self.flows <= plan.small_flows

    def read(self) -> tuple[Array, Array, int, int]:
        """Return the rows as kernels read them: entries, running totals of their flows, how many of both."""
        ends = self.on.xp.cumsum(self._current[1][: self.rows], dtype=self.on.xp.int64)
        return self._current[0], ends, self.rows, self.flows

    def room(self) -> tuple[Array, Array, Array]:
        """Return the empty list for the next round."""
        self.tally.fill(0)
        return *self._other, self.tally

    def room_behind(self) -> tuple[Array, Array, Array]:
        """Return the list of this round, for more rows."""
        self.tally[0], self.tally[1] = self.rows, self.flows
        return *self._current, self.tally

    def both(self) -> tuple[Array, Array, Array, Array, int, int]:
        """Return what one block needs to go on by itself."""
        self.tally.fill(0)
        return *self._current, *self._other, self.rows, self.flows

    def advance(self) -> None:
        """Go to the next round."""
        self._current, self._other = self._other, self._current
        self.count()

    def advance_small(self) -> None:
        """Go to where one block has stopped."""
        if self.count() % 2:
            self._current, self._other = self._other, self._current

    def count(self) -> int:
        """Fetch the tally; return the rounds."""
        self.rows, self.flows, rounds = (int(number) for number in self.on.to_host(self.tally))
        return rounds


class Search:
    """Trimming, then searches among the companies that are left.

    Attributes
    ----------
    live : uint32[words]
        The companies that may lie on a cycle, as a bitmap.
    live_flows : int
        What they pay, to each other and to others; known with the hub.
    """

    def __init__(self, on: Accelerator, outgoing: Index, incoming: Index, plan: Plan) -> None:
        xp = on.xp
        self.on, self.plan, self.outgoing, self.incoming = on, plan, outgoing, incoming
        self.ids = outgoing[1].dtype
        self.companies = outgoing[0].size - 1
        self.words = -(-self.companies // WORD)
        self.live_flows = 0
        self.frontier = Frontier(on, self.companies, self.ids)
        self.remaining_out = xp.empty(self.companies, xp.uint32)
        self.remaining_in = xp.empty(self.companies, xp.uint32)
        self.live = xp.empty(self.words, xp.uint32)

    def trim(self) -> None:
        """Take out companies that are never paid or never pay, until only those between cycles are left (or nearly).

        A company that is taken out takes a flow from each of its neighbours, on one side: each flow is read twice at most.
        Where it would take too many rounds, chains are cut: all companies that follow, each with one payer (or payee)
        left, on one that is out.
        """
        frontier = self.frontier
        indexes = self.outgoing[0], self.incoming[0], self.companies
        room = frontier.room()
        self._launch_by_word(BEGIN_TRIM, *indexes, self.remaining_out, self.remaining_in, self.live, *room)
        frontier.advance()
        self._release()
        for _ in range(self.plan.chain_rounds):
            if not frontier.rows:
                return
            self._cut_chains(*self.incoming, self.remaining_in, along_payers=True)
            self._cut_chains(*self.outgoing, self.remaining_out, along_payers=False)
            self._release()

    def hub(self) -> int | None:
        """Return the live company with most payers and payees left; None if nobody is live."""
        xp = self.on.xp
        # Who is out has nobody left on one side.
        score = xp.minimum(self.remaining_out, self.remaining_in)
        live_flows = xp.where(score > 0, xp.diff(self.outgoing[0]), 0).sum()
        found = xp.stack([score.argmax(), score.max().astype(xp.int64), live_flows])
        hub, best, self.live_flows = (int(number) for number in self.on.to_host(found))
        return hub if best else None

    def reach(self, hub: int, index: Index, turned: Index, within: Array) -> Array | None:
        """Search from the hub among the companies `within`; return a bitmap of those reached.

        None if the search is given up: too many levels.
        """
        on, plan, frontier = self.on, self.plan, self.frontier
        reached = on.xp.zeros_like(within)
        reached[hub // WORD] = on.xp.uint32(1 << hub % WORD)
        both = within & ~reached, reached
        begin, end = on.to_host(index[0][hub : hub + 2])
        frontier.start(hub, int(end - begin))
        long_rows: tuple[Array, Array, int, int] | None = None
        unread, granted = self.live_flows, self.live_flows // plan.patience
        for _ in range(plan.levels):
            if not frontier.rows:
                return reached
            unread = max(0, unread - frontier.flows)
            if frontier.flows * plan.pull_ratio > unread:
                long_rows = long_rows or self._long_rows(turned[0])
                room = frontier.room()
                self._launch_by_word(PULL_LEVEL, index[0], *turned, self.companies, plan.long_row, *both, *room)
                on.launch(PULL_LONG_ROWS, long_rows[-1], index[0], *turned, *long_rows, *both, *room)
                frontier.advance()
            elif frontier.is_small(plan):
                lists = frontier.both()
                limits = plan.small_rows, plan.small_flows, plan.small_rounds
                on.launch(PUSH_SMALL, SMALL_BLOCK, *index, *lists, *limits, *both, frontier.tally, blocks=1)
                frontier.advance_small()
                if frontier.rows and frontier.is_small(plan):
                    if not granted:
                        return None
                    granted -= 1
            else:
                on.launch(PUSH_LEVEL, frontier.flows, *index, *frontier.read(), *both, *frontier.room())
                frontier.advance()
        return None if frontier.rows else reached

    def _release(self) -> None:
        """Trim until the frontier is empty or the rounds are used up."""
        on, plan, frontier = self.on, self.plan, self.frontier
        state = self.remaining_out, self.remaining_in, self.live
        for _ in range(plan.trim_rounds):
            if not frontier.rows:
                return
            if frontier.is_small(plan):
                lists = frontier.both()
                limits = plan.small_rows, plan.small_flows, plan.small_rounds
                indexes = *self.outgoing, *self.incoming
                on.launch(RELEASE_SMALL, SMALL_BLOCK, *indexes, *lists, *limits, *state, frontier.tally, blocks=1)
                frontier.advance_small()
                if frontier.rows and frontier.is_small(plan):
                    return
            else:
                rows = *self.outgoing, *self.incoming, *frontier.read()
                on.launch(RELEASE_ROWS, frontier.flows, *rows, *state, *frontier.room())
                frontier.advance()

    def _cut_chains(self, offsets: Array, others: Array, remaining: Array, *, along_payers: bool) -> None:
        """Take out the companies on chains that begin with nobody, and put them into the frontier."""
        link = self.on.xp.empty(self.companies, self.ids)
        longest = self.plan.long_row
        self._launch_by_word(LINK_CHAINS, offsets, others, self.companies, longest, remaining, self.live, link)
        shorten_links(self.on, link, self.frontier.tally)
        indexes = self.outgoing[0], self.incoming[0], self.companies
        room = self.frontier.room_behind()
        self._launch_by_word(CUT_CHAINS, *indexes, link, int(along_payers), remaining, self.live, *room)
        self.frontier.count()

    def _long_rows(self, offsets: Array) -> tuple[Array, Array, int, int]:
        """Return the companies with rows too long for one warp, as kernels read rows."""
        xp = self.on.xp
        lengths = xp.diff(offsets)
        companies = xp.flatnonzero(lengths > self.plan.long_row)
        ends = xp.cumsum(lengths[companies], dtype=xp.int64)
        flows = int(self.on.to_host(ends[-1:])[0]) if companies.size else 0
        return companies.astype(self.ids), ends, companies.size, flows

    def _launch_by_word(self, kernel: Kernel, *arguments: Any) -> None:
        """Launch a kernel that gives each word of a bitmap to one warp."""
        self.on.launch(kernel, self.words * WORD, *arguments)


def shorten_links(on: Accelerator, link: Array, tally: Array) -> None:
    """Make each link lead to the beginning of its chain; those on a cycle of links may lead anywhere on it."""
    # Each launch makes them eight times as long, in the last one nothing changes.
    for _ in range(link.size.bit_length() // 3 + 2):
        tally.fill(0)
        on.launch(JUMP_LINKS, link.size, link, link.size, tally)
        if not on.to_host(tally)[2]:
            return
