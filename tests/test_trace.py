"""``ouroflow trace``: a company's round-trip money, split without a remainder."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

import ouroflow.trace
from ouroflow.errors import InputError, UsageError
from ouroflow.trace import Part, Trace, render, trace
from outfolder import hitting_probabilities, random_payments, write_out


def matrices(out: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Amounts, throughflow and stored round-trip money of a folder whose companies are 0..n-1."""
    companies, flows = pq.read_table(out / "companies.parquet"), pq.read_table(out / "flows.parquet")
    weights = np.zeros((len(companies),) * 2)
    weights[flows["payer"].to_numpy(), flows["payee"].to_numpy()] = flows["amount"].to_numpy()
    throughflow = companies["received"].to_numpy() + companies["external_in"].to_numpy()
    return weights, throughflow.astype(float), companies["round_trip"].to_numpy()


def whole(parts: tuple[Part, ...], others: Part) -> float:
    return sum(part.money.value for part in (*parts, others))


def expect_splits(found: Trace, expected: float, tolerance: float) -> None:
    slack = 1e-11 * found.paid
    near = pytest.approx(expected, rel=tolerance, abs=slack)
    assert found.round_trip.value == near
    assert whole(found.paid_first, found.paid_first_others) == near
    assert whole(found.returned_last, found.returned_last_others) == near
    assert whole(found.by_hops, found.more_hops) == near
    assert found.round_trip.low - slack <= expected <= found.round_trip.high + slack


@pytest.mark.parametrize("iterated", [False, True])
@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(1, 60))
@examples(max_examples=40)
def test_each_split_adds_up_to_the_round_trip_money(iterated: bool, seed: int, companies: int, payments: int) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ouroflow.trace, "DIRECT_LIMIT", 0 if iterated else 1_000)
        out = write_out(Path(folder) / "out", *random_payments(seed, companies, payments), companies=companies)
        weights, throughflow, round_trip = matrices(out)
        for company in range(companies):
            found = trace(out, str(company), top=3)
            expect_splits(found, round_trip[company], 1e-9)
            assert sum(path.money for path in found.paths) <= found.round_trip.high * (1 + 1e-9)
            hits = hitting_probabilities(weights, throughflow)
            for part in found.paid_first:
                assert part.flow == weights[company, part.name]
                assert part.money.value == pytest.approx(
                    weights[company, part.name] * hits[part.name, company], abs=1e-8
                )


@pytest.mark.parametrize("iterated", [False, True])
def test_who_pays_back_last_is_what_the_reversed_economy_pays_first(
    iterated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ouroflow.trace, "DIRECT_LIMIT", 0 if iterated else 1_000)
    payer, payee, amount = random_payments(5, 10, 60)
    there = write_out(tmp_path / "there", payer, payee, amount)
    back = write_out(tmp_path / "back", payee, payer, amount)
    for company in map(str, range(10)):
        last = {part.name: part.money for part in trace(there, company, top=99).returned_last}
        first = {part.name: part.money for part in trace(back, company, top=99).paid_first}
        assert last.keys() == first.keys()
        for name, part in last.items():
            assert part.value == pytest.approx(first[name].value, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_money_by_hops_is_that_of_powers_with_an_absorbing_root(seed: int, tmp_path: Path) -> None:
    out = write_out(tmp_path / "out", *random_payments(seed, 8, 40), companies=8)
    weights, throughflow, _ = matrices(out)
    share = weights / np.where(throughflow > 0, throughflow, 1)[:, None]
    found = trace(out, "3", hops=7)
    walking = weights[3].copy()
    for part in found.by_hops:
        walking[3] = 0
        walking = walking @ share
        assert part.money.value == pytest.approx(walking[3], rel=1e-12, abs=1e-12)
    assert [part.name for part in found.by_hops] == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("seed", range(8))
def test_paths_are_the_strongest_simple_ones_in_order(seed: int, tmp_path: Path) -> None:
    out = write_out(tmp_path / "out", *random_payments(seed, 6, 25), companies=6)
    weights, throughflow, _ = matrices(out)
    every = {}
    for length in range(1, 6):
        for middle in itertools.permutations([c for c in range(6) if c != 2], length):
            along, steps = weights[2, middle[0]], itertools.pairwise((*middle, 2))
            for i, j in steps:
                along *= weights[i, j] / max(throughflow[i], 1)
            if along > 0:
                every[(2, *middle, 2)] = along
    found = trace(out, "2", top=10_000)
    assert not found.limit_reached
    assert {path.companies for path in found.paths} == set(every)
    assert [path.money for path in found.paths] == pytest.approx(sorted(every.values(), reverse=True), rel=1e-12)
    assert trace(out, "2", top=5).paths == found.paths[:5]


def test_a_cut_search_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ouroflow.trace, "PATH_STEPS", 30)
    found = trace(write_out(tmp_path / "out", *random_payments(1, 12, 120)), "0", top=1000)
    assert found.limit_reached
    assert "limit" in render(found)


def test_a_run_with_a_hop_limit_is_traced_within_it(tmp_path: Path) -> None:
    out = write_out(tmp_path / "out", *random_payments(2, 9, 50), companies=9, hops=4)
    _, _, round_trip = matrices(out)
    for company in range(9):
        found = trace(out, str(company))
        expect_splits(found, round_trip[company], 1e-9)
        assert found.hop_limit == 4
        assert all(path.hops <= 4 for path in found.paths)


def test_known_external_flows_are_part_of_the_throughflow(tmp_path: Path) -> None:
    out = write_out(tmp_path / "out", [0, 1], [1, 0], [100, 100], external=([0, 100], [0, 100]))
    assert trace(out, "0").round_trip.value == pytest.approx(50)


def test_a_ring_returns_everything_and_a_chain_nothing(tmp_path: Path) -> None:
    ring = trace(write_out(tmp_path / "ring", [0, 1, 2], [1, 2, 0], [7, 7, 7]), "1")
    assert ring.round_trip.value == 7
    assert ring.return_fraction is not None
    assert ring.return_fraction.value == 1
    assert [path.companies for path in ring.paths] == [(1, 2, 0, 1)]
    chain = trace(write_out(tmp_path / "chain", [0, 1], [1, 2], [7, 7]), "1")
    assert chain.round_trip.value == chain.round_trip.high == 0
    assert chain.paths == chain.paid_first == chain.returned_last == ()
    assert "nothing comes back" in render(chain)
    last = trace(tmp_path / "chain", "2")
    assert last.return_fraction is None


def test_a_long_narrow_ring_is_bounded_honestly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ouroflow.trace, "DIRECT_LIMIT", 0)
    monkeypatch.setattr(ouroflow.trace, "ITERATION_WORK", 0)
    n = 60
    out = write_out(tmp_path / "out", list(range(n)), [*range(1, n), 0], [100] * n)
    found = trace(out, "0")
    assert found.round_trip.low == 0
    assert found.round_trip.high == 100
    assert "bounds" in found.round_trip.method


def test_an_unknown_company_is_an_error_with_near_names(tmp_path: Path) -> None:
    out = write_out(tmp_path / "out", [0, 1], [1, 0], [5, 5], names=["NVIDIA Corp", "오픈AI"])
    with pytest.raises(UsageError, match="NVIDIA Corp"):
        trace(out, "nvidia")
    with pytest.raises(UsageError, match="NVIDIA Corp"):
        trace(out, "NVIDA Corp")
    assert trace(out, "오픈AI").company == "오픈AI"
    numbers = write_out(tmp_path / "numbers", [0, 1], [1, 0], [5, 5], names=[71, 82])
    assert trace(numbers, "82").company == 82
    for wrong in ("83", "x", "9" * 40, ""):
        with pytest.raises(UsageError, match="no company"):
            trace(numbers, wrong)


def test_broken_folders_are_errors_in_words(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"run\.json"):
        trace(tmp_path, "x")
    out = write_out(tmp_path / "out", [0, 1], [1, 0], [5, 5])
    with pytest.raises(UsageError, match="at least 1"):
        trace(out, "0", top=0)
    (out / "flows.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="ouroflow verify"):
        trace(out, "0")
    (out / "run.json").write_text("[]")
    with pytest.raises(InputError, match="ouroflow verify"):
        trace(out, "0")


def test_the_text_shows_amounts_in_major_units_and_hostile_names_harmless(tmp_path: Path) -> None:
    names = ["bad\x1b[31m\nname", "한국전력공사", "c"]
    found = trace(
        write_out(tmp_path / "out", [0, 1, 2, 0], [1, 2, 0, 2], [12345, 12345, 500000, 100], names=names), names[0]
    )
    text = render(found)
    assert "\x1b" not in text
    assert "\\u001b" in text
    assert "123.45 USD" in text or "124.45 USD" in text
    assert "3  " in text
    assert "\u2588" in text
    assert "EUR" in render(found, "EUR")


def test_the_json_form_holds_the_same_figures(tmp_path: Path) -> None:
    found = trace(write_out(tmp_path / "out", *random_payments(4, 9, 50)), "1")
    content = json.loads(json.dumps(found.as_dict()))
    assert content["round_trip"]["value"] == found.round_trip.value
    assert len(content["paid_first"]) == len(found.paid_first)
    assert content["return_fraction"]["value"] == found.round_trip.value / found.paid
