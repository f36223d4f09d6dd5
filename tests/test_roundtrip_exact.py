"""The exact method: right to the last digits however little leaks, the same bits every time, and never larger than allowed."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ouroflow.components import components_of
from ouroflow.graph import FlowGraph
from ouroflow.roundtrip.cpu_core import sweep, sweep_stack
from ouroflow.roundtrip.cpu_exact import ExactReturns, exact_returns, exact_small

Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]
Component = tuple[Int64s, npt.NDArray[np.int32], Int64s, Int64s]


def component(matrix: list[list[int]] | Int64s, leak: list[int] | Int64s) -> Component:
    """Return offsets, payee, amount and throughflow of a component given as a matrix of amounts and what each company leaks."""
    amounts = np.array(matrix, np.int64)
    np.fill_diagonal(amounts, 0)
    payer, payee = np.nonzero(amounts)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(payer, minlength=len(amounts)))]).astype(np.int64)
    return offsets, payee.astype(np.int32), amounts[payer, payee], amounts.sum(1) + np.array(leak, np.int64)


def payers(part: Component) -> Int64s:
    return np.repeat(np.arange(part[3].size), np.diff(part[0]))


def solved(part: Component) -> ExactReturns:
    found = exact_returns(*part)
    assert found is not None
    return found


def rational(part: Component) -> tuple[list[Fraction], list[Fraction]]:
    """Return rho by company and r_e by flow from the inverse in exact rational numbers."""
    companies = part[3].size
    rows = [[Fraction(int(i == j)) for j in range(companies)] for i in range(companies)]
    inverse = [row[:] for row in rows]
    for payer, payee, amount in zip(payers(part).tolist(), part[1].tolist(), part[2].tolist(), strict=True):
        rows[payer][payee] -= Fraction(amount, int(part[3][payer]))
    for pivot in range(companies):
        swap = next(row for row in range(pivot, companies) if rows[row][pivot])
        rows[pivot], rows[swap], inverse[pivot], inverse[swap] = rows[swap], rows[pivot], inverse[swap], inverse[pivot]
        scale = rows[pivot][pivot]
        rows[pivot] = [entry / scale for entry in rows[pivot]]
        inverse[pivot] = [entry / scale for entry in inverse[pivot]]
        for row in range(companies):
            if row != pivot and (factor := rows[row][pivot]):
                rows[row] = [a - factor * b for a, b in zip(rows[row], rows[pivot], strict=True)]
                inverse[row] = [a - factor * b for a, b in zip(inverse[row], inverse[pivot], strict=True)]
    company = [1 - 1 / inverse[i][i] for i in range(companies)]
    flow = [inverse[j][i] / inverse[i][i] for i, j in zip(payers(part).tolist(), part[1].tolist(), strict=True)]
    return company, flow


def dense(part: Component) -> tuple[Floats, Floats]:
    """Return rho and r_e from NumPy's inverse: an oracle for components that leak plenty."""
    payer, companies = payers(part), part[3].size
    matrix = np.eye(companies)
    matrix[payer, part[1]] -= part[2] / part[3][payer]
    visits = np.linalg.inv(matrix)
    own = np.diag(visits)
    return 1 - 1 / own, visits[part[1], payer] / own[payer]


def worst(found: Floats, exact: list[Fraction]) -> float:
    """Return the largest relative error, computed without rounding."""
    return max(float(abs(Fraction(float(x)) / y - 1)) for x, y in zip(found, exact, strict=True))


def power_law(companies: int, flows: int, seed: int) -> Component:
    """Return the giant component of a power-law graph with its implied boundary."""
    rng = np.random.default_rng(seed)
    rank = np.arange(1, companies + 1) ** -0.7
    chance = rank / rank.sum()
    payer, payee = (rng.permutation(companies)[rng.choice(companies, flows, p=chance)] for _ in range(2))
    amount = np.maximum(1, rng.lognormal(7, 2, flows)).astype(np.int64)
    graph = FlowGraph.from_arrays(payer, payee, amount, companies=companies)
    intra = graph.intra(components_of(graph).labels)
    members = slice(0, int(intra.company_offsets[1]))
    offsets = intra.flow_offsets[: members.stop + 1]
    flows_of_giant = slice(0, int(offsets[-1]))
    throughflow = graph.throughflow[intra.company[members]]
    return offsets, intra.payee[flows_of_giant].astype(np.int32), intra.amount[flows_of_giant], throughflow


@st.composite
def components(draw: st.DrawFn) -> Component:
    """Draw up to seven companies on a ring with chords, amounts from one unit to 10**15, a leak of at least one unit somewhere."""
    companies = draw(st.integers(2, 7))
    amounts = st.one_of(st.integers(1, 9), st.integers(1, 10**15))
    matrix = [[draw(st.one_of(st.just(0), amounts)) for _ in range(companies)] for _ in range(companies)]
    for company in range(companies):
        matrix[company][(company + 1) % companies] = draw(amounts)
    leak = [draw(st.sampled_from([0, 0, 1, 10**6, 10**15])) for _ in range(companies)]
    leak[draw(st.integers(0, companies - 1))] += 1
    return component(matrix, leak)


@given(components())
@settings(max_examples=150)
def test_every_figure_has_twelve_digits_whatever_the_amounts(part: Component) -> None:
    company, flow = rational(part)
    found = solved(part)
    assert worst(found.company, company) < 1e-12
    assert worst(found.flow, flow) < 1e-12


def test_one_unit_of_leak_in_ten_to_the_fifteen_costs_no_digit() -> None:
    rng = np.random.default_rng(3)
    matrix = rng.integers(1, 10**15, (14, 14)) * (rng.random((14, 14)) < 0.4)
    matrix[np.arange(14), (np.arange(14) + 1) % 14] = 10**15
    leak = np.zeros(14, np.int64)
    leak[5] = 1
    part = component(matrix, leak)
    company, flow = rational(part)
    found = solved(part)
    assert worst(found.company, company) < 1e-12
    assert worst(found.flow, flow) < 1e-12


def test_amounts_near_the_end_of_int64() -> None:
    part = component([[0, 2**62, 2**61], [2**62, 0, 5], [2**61 - 1, 2**62, 0]], [2**61 - 1, 1, 0])
    company, flow = rational(part)
    assert worst(solved(part).company, company) < 1e-14
    assert worst(solved(part).flow, flow) < 1e-14


def test_returns_far_below_the_rounding_of_one_keep_their_digits() -> None:
    ring = [[0] * 4 for _ in range(4)]
    for company in range(4):
        ring[company][(company + 1) % 4] = 1
    part = component(ring, [10**12] * 4)
    company, flow = rational(part)
    found = solved(part)
    assert found.company.max() < 1e-47
    assert worst(found.company, company) < 1e-14
    assert worst(found.flow, flow) < 1e-14


@pytest.mark.parametrize("companies", [2, 3, 300, 3000])
def test_a_ring_without_leak_returns_everything_exactly(companies: int) -> None:
    following = np.roll(np.arange(companies, dtype=np.int32), -1)
    amount = np.full(companies, 10**15 + 7)
    found = solved((np.arange(companies + 1), following, amount, amount))
    assert (found.company == 1).all()
    assert (found.flow == 1).all()


def test_a_ring_with_one_leak_returns_the_rest() -> None:
    companies = 3000
    following = np.roll(np.arange(companies, dtype=np.int32), -1)
    amount = np.full(companies, 1000)
    throughflow = amount.copy()
    throughflow[17] = 1600
    found = solved((np.arange(companies + 1), following, amount, throughflow))
    np.testing.assert_allclose(found.company, 1000 / 1600, rtol=1e-13)
    np.testing.assert_allclose(np.delete(found.flow, 17), 1000 / 1600, rtol=1e-13)
    np.testing.assert_allclose(found.flow[17], 1.0, rtol=1e-13)


@given(st.integers(1, 2**40), st.integers(1, 2**40), st.integers(0, 2**40), st.integers(1, 2**40))
def test_two_companies_have_a_closed_form(there: int, back: int, leak: int, other_leak: int) -> None:
    part = component([[0, there], [back, 0]], [leak, other_leak])
    first, second = there / (there + leak), back / (back + other_leak)
    found = solved(part)
    np.testing.assert_allclose(found.company, first * second, rtol=1e-14)
    np.testing.assert_allclose(found.flow, [second, first], rtol=1e-14)


def test_a_star_returns_to_its_hub_what_each_partner_sends_back() -> None:
    rng = np.random.default_rng(0)
    partners = 2000
    sent, leak = rng.integers(1, 10**6, partners), rng.integers(0, 10**6, partners)
    matrix = np.zeros((partners + 1, partners + 1), np.int64)
    matrix[0, 1:] = sent
    matrix[1:, 0] = back = rng.integers(1, 10**6, partners)
    found = solved(component(matrix, np.concatenate([[5], leak])))
    np.testing.assert_allclose(found.flow[:partners], back / (back + leak), rtol=1e-14)
    np.testing.assert_allclose(found.company[0], (sent * (back / (back + leak))).sum() / (sent.sum() + 5), rtol=1e-13)


def test_a_two_way_chain_follows_the_gamblers_recurrence() -> None:
    rng = np.random.default_rng(1)
    companies = 5000
    up, down, leak = (rng.integers(1, 10**6, companies) for _ in range(3))
    up[-1] = down[0] = 0
    throughflow = up + down + leak
    company = np.arange(companies)
    payer = np.concatenate([company[1:], company[:-1]])
    payee = np.concatenate([company[:-1], company[1:]])
    amount = np.concatenate([down[1:], up[:-1]])
    order = np.lexsort((payee, payer))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(payer))]).astype(np.int64)
    found = solved((offsets, payee[order].astype(np.int32), amount[order], throughflow))
    # From i + 1 to i: straight down, or up first and back. From i to i + 1 likewise.
    falls, climbs = np.zeros(companies), np.zeros(companies)
    for i in range(companies - 2, -1, -1):
        falls[i] = down[i + 1] / (throughflow[i + 1] - up[i + 1] * falls[i + 1])
    for i in range(1, companies):
        climbs[i] = up[i - 1] / (throughflow[i - 1] - down[i - 1] * climbs[i - 1])
    goes_up = payee[order] > payer[order]
    np.testing.assert_allclose(found.flow[goes_up], falls[:-1], rtol=1e-12)
    np.testing.assert_allclose(found.flow[~goes_up], climbs[1:], rtol=1e-12)


@pytest.mark.parametrize(("companies", "flows"), [(300, 900), (1000, 20_000), (3000, 30_000)])
def test_power_law_components_equal_the_dense_inverse(companies: int, flows: int) -> None:
    part = power_law(companies, flows, 1)
    company, flow = dense(part)
    found = solved(part)
    assert np.abs(found.company - company).max() < 1e-12
    assert np.abs(found.flow - flow).max() < 1e-12


def test_flows_add_up_to_their_company() -> None:
    part = power_law(1000, 10_000, 2)
    found = solved(part)
    money = np.bincount(payers(part), part[2] * found.flow)
    np.testing.assert_allclose(money, part[3] * found.company, rtol=1e-13)
    assert found.flow.min() >= 0
    assert found.flow.max() <= 1
    assert found.company.max() <= 1


def test_the_same_component_gives_the_same_bits() -> None:
    part = power_law(2000, 20_000, 5)
    first, second = solved(part), solved(part)
    assert first.company.tobytes() == second.company.tobytes()
    assert first.flow.tobytes() == second.flow.tobytes()


def test_one_thread_and_two_give_the_same_bits() -> None:
    script = (
        "import hashlib, sys; sys.path.insert(0, sys.argv[1]); import test_roundtrip_exact as t\n"
        "found = t.solved(t.power_law(2000, 20_000, 5))\n"
        "print(hashlib.sha256(found.company.tobytes() + found.flow.tobytes()).hexdigest())"
    )
    digests = set()
    for threads in ("1", "2"):
        environment = os.environ | {"OPENBLAS_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        command = [sys.executable, "-c", script, os.path.dirname(os.path.abspath(__file__))]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        digests.add(run.stdout)
    assert len(digests) == 1


def test_renumbering_the_companies_changes_no_more_than_the_last_digits() -> None:
    offsets, payee, amount, throughflow = part = power_law(1500, 12_000, 4)
    new = np.random.default_rng(0).permutation(throughflow.size)
    payer = new[payers(part)]
    order = np.lexsort((new[payee], payer))
    renumbered = np.concatenate([[0], np.cumsum(np.bincount(payer))]).astype(np.int64)
    old = np.argsort(new)
    found = solved((renumbered, new[payee][order].astype(np.int32), amount[order], throughflow[old]))
    expected = solved((offsets, payee, amount, throughflow))
    np.testing.assert_allclose(found.company[new], expected.company, rtol=1e-12)
    np.testing.assert_allclose(found.flow, expected.flow[order], rtol=1e-12)


def test_a_core_beyond_the_limit_is_refused_and_one_within_is_solved() -> None:
    part = power_law(2000, 20_000, 1)
    assert exact_returns(*part, core_limit=50) is None
    found = exact_returns(*part, core_limit=1500)
    assert found is not None
    np.testing.assert_allclose(found.company, solved(part).company, rtol=1e-12)


def test_arrays_given_are_left_as_they_were() -> None:
    part = power_law(800, 6_000, 3)
    before = [array.copy() for array in part]
    solved(part)
    for array, copy in zip(part, before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_many_small_components_equal_each_one_alone() -> None:
    rng = np.random.default_rng(7)
    payer, payee, amount, start = [], [], [], 0
    for size in [2] * 300 + [3] * 200 + [5, 8, 13, 21, 34, 55, 144]:
        ring = np.arange(size)
        chords = rng.integers(0, size, (2, size))
        payer.append(start + np.concatenate([ring, chords[0]]))
        payee.append(start + np.concatenate([np.roll(ring, -1), chords[1]]))
        # Every third component is a bare ring of one amount: it leaks nothing.
        amount.append(rng.integers(1, 1000, 2 * size))
        if rng.random() < 1 / 3:
            payer[-1], payee[-1], amount[-1] = payer[-1][:size], payee[-1][:size], np.full(size, 9)
        start += size
    graph = FlowGraph.from_arrays(np.concatenate(payer), np.concatenate(payee), np.concatenate(amount), companies=start)
    intra = graph.intra(components_of(graph).labels)
    throughflow = graph.throughflow[intra.company]
    together = exact_small(intra, throughflow, np.arange(intra.components))
    assert (together.company == 1).sum() > 100
    for number in range(intra.components):
        first, last = intra.company_offsets[number : number + 2]
        flows = slice(intra.flow_offsets[first], intra.flow_offsets[last])
        offsets = intra.flow_offsets[first : last + 1] - flows.start
        alone = solved((offsets, intra.payee[flows].astype(np.int32), intra.amount[flows], throughflow[first:last]))
        np.testing.assert_allclose(together.company[first:last], alone.company, rtol=1e-13)
        np.testing.assert_allclose(together.flow[flows], alone.flow, rtol=1e-13)


def test_components_not_asked_for_stay_open() -> None:
    graph = FlowGraph.from_arrays(np.array([0, 1, 2, 3]), np.array([1, 0, 3, 2]), np.array([4, 2, 6, 5]), companies=4)
    intra = graph.intra(components_of(graph).labels)
    found = exact_small(intra, graph.throughflow[intra.company], np.array([1]))
    assert np.isnan(found.company).tolist() == [True, True, False, False]
    assert np.isnan(found.flow).tolist() == [True, True, False, False]


@pytest.mark.parametrize("companies", [1, 2, 31, 33, 128, 129, 400])
def test_sweeping_in_blocks_equals_sweeping_one_by_one(companies: int) -> None:
    rng = np.random.default_rng(companies)
    chain = rng.random((companies, companies)) * (rng.random((companies, companies)) < 0.3)
    leak = rng.random(companies) * 1e-12 + 1e-15
    np.fill_diagonal(chain, 0)
    whole = chain.sum(1) + leak
    chain, leak = np.asfortranarray(chain / whole[:, None]), leak / whole
    one_by_one = chain.copy()[None]
    sweep_stack(one_by_one, leak.copy()[None])
    sweep(chain, leak.copy())
    np.testing.assert_allclose(chain, one_by_one[0], rtol=1e-12)
