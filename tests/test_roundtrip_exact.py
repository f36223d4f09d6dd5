"""Exact returns of whole components: every stage of the elimination against rationals, dense NumPy and closed forms."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from ouroflow.components import components_of
from ouroflow.graph import FlowGraph
from ouroflow.roundtrip import cpu_dense, cpu_elimination
from ouroflow.roundtrip.cpu_core import sweep, sweep_stack
from ouroflow.roundtrip.cpu_exact import SMALL, ExactReturns, exact_returns, exact_small

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import graphs

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# (price of a pair in lists, price in the dense core): 0 eliminates everything there, infinity nothing.
STAGES = {
    "as priced": None,
    "lists only": (0.0, 0.0),
    "bit sets only": (np.inf, 0.0),
    "BLAS only": (np.inf, np.inf),
    "half and half": (300.0, 30.0),
}


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test once per stage, and give its name."""
    force(monkeypatch, request.param)
    return str(request.param)


every_stage = pytest.mark.usefixtures("stage")


def force(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    prices = STAGES[stage]
    if prices is not None:
        monkeypatch.setattr(cpu_elimination, "_FLOPS_TO_LEAVE", prices[0])
        monkeypatch.setattr(cpu_dense, "_FLOPS_PER_PAIR", prices[1])


class Component:
    """One component as the solver wants it, from (payer, payee, amount)."""

    def __init__(self, payer: object, payee: object, amount: object) -> None:
        payer, payee, amount = (np.asarray(column, np.int64) for column in (payer, payee, amount))
        order = np.lexsort((payee, payer))
        self.payer, self.payee, self.amount = payer[order], payee[order], amount[order]
        self.size = int(max(payer.max(), payee.max())) + 1
        self.offsets = np.searchsorted(self.payer, np.arange(self.size + 1)).astype(np.int64)
        self.paid, received = np.zeros(self.size, np.int64), np.zeros(self.size, np.int64)
        np.add.at(self.paid, payer, amount)
        np.add.at(received, payee, amount)
        self.throughflow = np.maximum(self.paid, received)

    def solve(self, core_limit: int | None = None) -> ExactReturns | None:
        return exact_returns(self.offsets, self.payee, self.amount, self.throughflow, core_limit=core_limit)

    def solved(self) -> ExactReturns:
        found = self.solve()
        assert found is not None
        return found

    def dense(self) -> tuple[Floats, Floats]:
        """Return rho and r_e from NumPy's dense inverse."""
        move = np.zeros((self.size, self.size))
        move[self.payer, self.payee] = self.amount / self.throughflow[self.payer]
        visits = np.linalg.inv(np.eye(self.size) - move)
        return 1 - 1 / np.diag(visits), visits[self.payee, self.payer] / visits[self.payer, self.payer]

    def rational(self) -> list[Fraction]:
        weights = [[0] * self.size for _ in range(self.size)]
        for payer, payee, amount in zip(self.payer, self.payee, self.amount, strict=True):
            weights[payer][payee] = int(amount)
        round_trip = oracle.rational(weights)[2]
        return [money / int(through) for money, through in zip(round_trip, self.throughflow, strict=True)]


def from_matrix(matrix: list[list[int]]) -> Component:
    payer, payee = np.nonzero(matrix)
    return Component(payer, payee, [matrix[i][j] for i, j in zip(payer, payee, strict=True)])


def ring_with(size: int, extra: int, seed: int, largest: int = 1000) -> Component:
    """A ring through all companies with random other flows: one strong component."""
    rng = np.random.default_rng(seed)
    pair = rng.integers(0, size, (extra, 2))
    pair = np.concatenate(
        [pair[pair[:, 0] != pair[:, 1]], np.stack([np.arange(size), np.roll(np.arange(size), -1)], 1)]
    )
    pair = np.unique(pair, axis=0)
    return Component(pair[:, 0], pair[:, 1], rng.integers(1, largest, len(pair)))


def hub_heavy(size: int, extra: int, seed: int) -> Component:
    """As `ring_with`, but half of all other flows have a company of the first tenth at an end."""
    rng = np.random.default_rng(seed)
    rank = (size * rng.random((extra, 2)) ** 3).astype(np.int64)
    pair = np.concatenate(
        [rank[rank[:, 0] != rank[:, 1]], np.stack([np.arange(size), np.roll(np.arange(size), -1)], 1)]
    )
    pair = np.unique(pair, axis=0)
    return Component(pair[:, 0], pair[:, 1], np.rint(rng.lognormal(7, 2, len(pair))).astype(np.int64) + 1)


@st.composite
def strong(draw: st.DrawFn, largest: int = 7, amount: int = 10**6) -> list[list[int]]:
    """A matrix of flows with a ring through all companies."""
    size = draw(st.integers(2, largest))
    order = draw(st.permutations(range(size)))
    some = st.one_of(st.just(0), st.integers(1, amount), st.sampled_from([1, amount]))
    matrix = [[0 if i == j else draw(some) for j in range(size)] for i in range(size)]
    for i, j in zip(order, [*order[1:], order[0]], strict=True):
        matrix[i][j] = max(matrix[i][j], 1)
    return matrix


def assert_close(found: Floats, exact: list[Fraction], relative: float) -> None:
    for value, truth in zip(found, exact, strict=True):
        assert abs(Fraction(float(value)) - truth) <= relative * truth, (value, float(truth))


@pytest.mark.parametrize("name", STAGES)
@settings(max_examples=40)
@given(matrix=strong())
def test_every_stage_equals_rational_arithmetic(name: str, matrix: list[list[int]]) -> None:
    component = from_matrix(matrix)
    with pytest.MonkeyPatch.context() as patch:
        force(patch, name)
        found = component.solved()
    assert_close(found.company, component.rational(), 1e-13)


@pytest.mark.parametrize("name", STAGES)
@settings(max_examples=25)
@given(matrix=strong(5, 10**17), company=st.integers(0, 4))
def test_a_leak_of_one_minor_unit_costs_no_digits(name: str, matrix: list[list[int]], company: int) -> None:
    """Amounts up to 10^17, balanced but for one unit that leaks: I - P is singular in double precision."""
    size = len(matrix)
    company %= size
    other = (company + 1) % size
    for i in range(size):  # pay the differences around by way of the neighbour
        if i != other:
            paid, received = sum(matrix[i]), sum(row[i] for row in matrix)
            matrix[i][other] += max(received - paid, 0)
            matrix[other][i] += max(paid - received, 0)
    matrix[company][other] += 1
    component = from_matrix(matrix)
    with pytest.MonkeyPatch.context() as patch:
        force(patch, name)
        found = component.solved()
    assert_close(found.company, component.rational(), 1e-13)


@every_stage
def test_tiny_returns_keep_their_digits() -> None:
    """Returns of 10^-15 and less, which 1 - 1 / N_ii would not show at all."""
    for amount in (10**15, 10**16, 10**18):
        component = from_matrix([[0, 1, amount, 0], [0, 0, 3, 1], [1, 1, 0, 7], [2, 0, amount, 0]])
        assert_close(component.solved().company, component.rational(), 1e-12)


@every_stage
@pytest.mark.parametrize(("size", "extra"), [(200, 300), (600, 1500), (1500, 9000)])
def test_mid_sizes_equal_dense_numpy(size: int, extra: int) -> None:
    for component in (ring_with(size, extra, seed=size), hub_heavy(size, extra, seed=size)):
        found = component.solved()
        company, flow = component.dense()
        np.testing.assert_allclose(found.company, company, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.flow, flow, rtol=1e-9, atol=1e-12)


def test_stages_agree_to_the_last_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    component = hub_heavy(1000, 12_000, seed=3)
    found = {}
    for name in STAGES:
        with monkeypatch.context() as patch:
            force(patch, name)
            found[name] = component.solved()
    for name in STAGES:
        np.testing.assert_allclose(found[name].company, found["BLAS only"].company, rtol=1e-12)
        np.testing.assert_allclose(found[name].flow, found["BLAS only"].flow, rtol=1e-12)


@every_stage
@pytest.mark.parametrize("size", [2, 3, 70, 3000])
def test_without_a_leak_everything_returns(size: int) -> None:
    rng = np.random.default_rng(size)
    balanced = {}
    for _ in range(3):
        order, amount = rng.permutation(size), int(rng.integers(1, 2**40))
        for i, j in zip(order.tolist(), np.roll(order, -1).tolist(), strict=True):
            balanced[i, j] = balanced.get((i, j), 0) + amount
    found = Component([i for i, _ in balanced], [j for _, j in balanced], list(balanced.values())).solved()
    assert (found.company == 1.0).all()
    assert (found.flow == 1.0).all()


@every_stage
@pytest.mark.parametrize("size", [5, SMALL + 1, 4000])
def test_a_ring_with_one_leak_returns_the_same_to_all(size: int) -> None:
    """One company pays on 2 of 3 units: every flow returns with 2/3 behind the leak, and fully before it."""
    amount = np.full(size, 3)
    amount[0] = 2
    component = Component(np.arange(size), np.roll(np.arange(size), -1), amount)
    component.throughflow[:] = 3
    found = component.solved()
    np.testing.assert_allclose(found.company, 2 / 3, rtol=1e-14)
    np.testing.assert_allclose(found.flow[1:], 2 / 3, rtol=1e-14)
    assert found.flow[0] == pytest.approx(1.0, abs=1e-15)


@every_stage
def test_a_star_is_reciprocity() -> None:
    """The hub trades with each spoke both ways: all money passes the hub, so returns have a closed form."""
    spokes = 3000
    rng = np.random.default_rng(1)
    to, back = rng.integers(1, 10**9, spokes), rng.integers(1, 10**9, spokes)
    ids, hub = np.arange(1, spokes + 1), np.zeros(spokes, np.int64)
    component = Component(np.concatenate([hub, ids]), np.concatenate([ids, hub]), np.concatenate([to, back]))
    through = component.throughflow
    there, home = to / through[0], back / through[1:]
    found = component.solved()
    hub_returns = float((there * home).sum())
    assert found.company[0] == pytest.approx(hub_returns, rel=1e-13)
    others = hub_returns - there * home
    np.testing.assert_allclose(found.company[1:], home * there / (1 - others), rtol=1e-11)


@pytest.mark.parametrize("stage", ["as priced", "lists only", "bit sets only"], indirect=True)
@every_stage
def test_a_long_chain_both_ways() -> None:
    """5,000 companies in a row: the chance to come back from one side follows from that of the next company there."""
    size = 5000
    rng = np.random.default_rng(2)
    up, down = rng.integers(1, 10**6, size - 1), rng.integers(1, 10**6, size - 1)
    row = np.arange(size - 1)
    component = Component(np.concatenate([row, row + 1]), np.concatenate([row + 1, row]), np.concatenate([up, down]))
    through = component.throughflow
    from_right, from_left = np.zeros(size), np.zeros(size)  # reaching i from i + 1 without passing i, and from i - 1
    for i in range(size - 2, -1, -1):
        onward = up[i + 1] / through[i + 1] * from_right[i + 1] if i < size - 2 else 0.0
        from_right[i] = down[i] / through[i + 1] / (1 - onward)
    for i in range(1, size):
        onward = down[i - 2] / through[i - 1] * from_left[i - 1] if i > 1 else 0.0
        from_left[i] = up[i - 1] / through[i - 1] / (1 - onward)
    expected = np.zeros(size)
    expected[:-1] += up / through[:-1] * from_right[:-1]
    expected[1:] += down / through[1:] * from_left[1:]
    np.testing.assert_allclose(component.solved().company, expected, rtol=1e-10)


@pytest.mark.parametrize("size", [SMALL - 1, SMALL, SMALL + 1])
def test_small_and_large_components_meet(size: int) -> None:
    component = ring_with(size, 3 * size, seed=size)
    graph = FlowGraph.from_arrays(component.payer, component.payee, component.amount)
    intra = graph.intra(components_of(graph).labels)
    small = exact_small(intra, graph.throughflow[intra.company], np.array([0]))
    large = component.solved()
    np.testing.assert_allclose(small.company, large.company, rtol=1e-13)
    np.testing.assert_allclose(small.flow, large.flow, rtol=1e-12)


def test_many_small_components_equal_each_solved_alone() -> None:
    """Sizes 2 to 40, several of each, one of them closed; what was not asked for comes back as NaN."""
    parts, start = [], 0
    for size in (2, 2, 3, 3, 3, 5, 17, 17, 40):
        part = ring_with(size, 2 * size, seed=start)
        parts.append((part.payer + start, part.payee + start, part.amount))
        start += size
    parts.append((np.array([start, start + 1]), np.array([start + 1, start]), np.array([9, 9])))
    payer, payee, amount = (np.concatenate(column) for column in zip(*parts, strict=True))
    graph = FlowGraph.from_arrays(payer, payee, amount)
    intra = graph.intra(components_of(graph).labels)
    through = graph.throughflow[intra.company]
    asked = np.arange(1, intra.components)
    small = exact_small(intra, through, asked)
    for component in range(intra.components):
        members = slice(intra.company_offsets[component], intra.company_offsets[component + 1])
        offsets = intra.flow_offsets[members.start : members.stop + 1]
        flows = slice(offsets[0], offsets[-1])
        if component not in asked:
            assert np.isnan(small.company[members]).all() and np.isnan(small.flow[flows]).all()
            continue
        alone = exact_returns(offsets - offsets[0], intra.payee[flows], intra.amount[flows], through[members])
        assert alone is not None
        np.testing.assert_allclose(small.company[members], alone.company, rtol=1e-13)
        np.testing.assert_allclose(small.flow[flows], alone.flow, rtol=1e-12)


@every_stage
def test_amounts_near_the_end_of_int64() -> None:
    most = 2**62
    component = from_matrix([[0, most - 1, most], [most - 3, 0, 5], [most, 1, 0]])
    assert_close(component.solved().company, component.rational(), 1e-13)


@every_stage
def test_int32_and_int64_payees_give_the_same_bits() -> None:
    component = hub_heavy(700, 4000, seed=5)
    wide = component.solved()
    component.payee = component.payee.astype(np.int32)
    narrow = component.solved()
    assert (wide.company == narrow.company).all() and (wide.flow == narrow.flow).all()


@every_stage
def test_runs_repeat_bit_by_bit() -> None:
    component = hub_heavy(1200, 12_000, seed=6)
    first = component.solved()
    for _ in range(2):
        again = component.solved()
        assert (first.company == again.company).all() and (first.flow == again.flow).all()


@every_stage
def test_input_is_left_alone() -> None:
    component = hub_heavy(400, 3000, seed=7)
    before = [part.copy() for part in (component.offsets, component.payee, component.amount, component.throughflow)]
    component.solved()
    after = (component.offsets, component.payee, component.amount, component.throughflow)
    assert all((one == other).all() for one, other in zip(before, after, strict=True))


def test_a_core_above_its_limit_is_refused_and_one_within_accepted() -> None:
    component = hub_heavy(6000, 40_000, seed=8)
    free = component.solved()
    needed = smallest_core(component)
    within = component.solve(core_limit=needed)
    assert component.solve(core_limit=needed // 3) is None
    assert within is not None
    np.testing.assert_allclose(within.company, free.company, rtol=1e-12)


def smallest_core(component: Component) -> int:
    """Return a limit near the smallest that is accepted, by bisection."""
    low, high = 0, component.size
    while high - low > 50:
        middle = (low + high) // 2
        low, high = (low, middle) if component.solve(core_limit=middle) is not None else (middle, high)
    return high


def test_a_core_far_above_its_limit_is_refused_long_before_it_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    component = ring_with(30_000, 150_000, seed=9)
    lists = []
    original = cpu_elimination._lists

    def watched(*chain: object) -> tuple[object, ...]:
        lists.append(original(*chain))
        return lists[-1]

    monkeypatch.setattr(cpu_elimination, "_lists", watched)
    limit = 1000
    assert component.solve(core_limit=limit) is None
    present = lists[0][3].present
    assert present.sum() > 10 * limit


def test_sweeps_invert_dense_chains() -> None:
    """The core alone, in every size around its blocks, against NumPy; one company at a time gives the same."""
    for size in (1, 2, 31, 32, 33, 127, 128, 129, 300):
        rng = np.random.default_rng(size)
        move = rng.random((size, size)) * (rng.random((size, size)) < 0.5)
        np.fill_diagonal(move, 0.0)
        leak = rng.random(size) + 1e-3
        whole = move.sum(axis=1) + leak
        move, leak = move / whole[:, None], leak / whole
        expected = np.linalg.inv(np.eye(size) - move)
        blocked, stacked = np.asfortranarray(move), move[None].copy()
        sweep(blocked, leak.copy())
        sweep_stack(stacked, leak[None].copy())
        np.testing.assert_allclose(blocked, expected, rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(stacked[0], expected, rtol=1e-9, atol=1e-13)


def test_giant_component_of_a_power_law_equals_dense_numpy() -> None:
    """The slow one: 3,922 companies, all three stages at their own prices."""
    graph = FlowGraph.from_arrays(*graphs.power_law(4000, 40_000, 1), companies=4000)
    intra = graph.intra(components_of(graph).labels)
    size = int(intra.company_offsets[1])
    flows = slice(0, int(intra.flow_offsets[size]))
    through, offsets = graph.throughflow[intra.company[:size]], intra.flow_offsets[: size + 1]
    found = exact_returns(offsets, intra.payee[flows], intra.amount[flows], through)
    assert found is not None
    payer = np.repeat(np.arange(size), np.diff(offsets))
    move = np.zeros((size, size))
    move[payer, intra.payee[flows]] = intra.amount[flows] / through[payer]
    visits = np.linalg.inv(np.eye(size) - move)
    np.testing.assert_allclose(found.company, 1 - 1 / np.diag(visits), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.flow, visits[intra.payee[flows], payer] / visits[payer, payer], rtol=0, atol=1e-12)
