"""Seeded graphs for the benchmarks: the same numbers on every machine and in every release, so figures stay comparable.

`structure` gives plain arrays for strong components, `power_law` flows with amounts, `payments` dated payments with
planted rings. The order of the random draws is part of the definition: never change it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Ids32 = npt.NDArray[np.int32]
Ids64 = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

SECONDS_A_DAY = 86_400


def structure(name: str, seed: int = 0) -> tuple[Ids32, Ids32]:
    """Return (payer, payee), int32, of one of the graphs in `STRUCTURES`."""
    if name not in STRUCTURES:
        raise ValueError(f"no graph named {name!r}; there are {', '.join(STRUCTURES)}")
    payer, payee = STRUCTURES[name](np.random.default_rng(seed))
    return payer.astype(np.int32), payee.astype(np.int32)


def zipf(rng: np.random.Generator, companies: int = 1_000_000) -> tuple[Ids64, Ids64]:
    """Ten flows per company, payers and payees drawn by rank ** -0.8 in two independent orders."""
    share = np.cumsum(np.arange(1, companies + 1) ** -0.8)
    share /= share[-1]
    payer_of_rank, payee_of_rank = rng.permutation(companies), rng.permutation(companies)
    payer = payer_of_rank[np.searchsorted(share, rng.random(10 * companies))]
    payee = payee_of_rank[np.searchsorted(share, rng.random(10 * companies))]
    return payer, payee


def uniform(rng: np.random.Generator, companies: int = 1_000_000) -> tuple[Ids64, Ids64]:
    """Five flows per company between any two."""
    return rng.integers(0, companies, 5 * companies), rng.integers(0, companies, 5 * companies)


def long_cycle(rng: np.random.Generator, companies: int = 1_000_000) -> tuple[Ids64, Ids64]:
    """One cycle through all companies in random order, and for every fifth a shortcut of 2 to 50 steps."""
    ring = rng.permutation(companies)
    start, step = rng.integers(0, companies, companies // 5), rng.integers(2, 51, companies // 5)
    payer = np.concatenate([ring, ring[start]])
    payee = np.concatenate([np.roll(ring, -1), ring[(start + step) % companies]])
    return payer, payee


def payment_network(rng: np.random.Generator, companies: int = 1_000_000) -> tuple[Ids64, Ids64]:
    """Five flows per company by activity; 35% never pay, 30% are never paid; 2% as many small rings on top."""
    kind, activity = rng.random(companies), rng.pareto(1.2, companies) + 1
    pays = np.cumsum(np.where(kind < 0.35, 0, activity))
    receives = np.cumsum(np.where((kind >= 0.35) & (kind < 0.65), 0, activity))
    payer = [np.searchsorted(pays, rng.random(5 * companies) * pays[-1])]
    payee = [np.searchsorted(receives, rng.random(5 * companies) * receives[-1])]
    for _ in range(companies // 50):
        ring = rng.integers(0, companies, rng.integers(2, 21))
        payer.append(ring)
        payee.append(np.roll(ring, -1))
    return np.concatenate(payer), np.concatenate(payee)


def local(rng: np.random.Generator, companies: int = 2_000_000) -> tuple[Ids64, Ids64]:
    """1.3 flows per company, none further than 200 ids: no giant component, thousands of small ones."""
    flows = companies * 13 // 10
    payer = rng.integers(0, companies, flows)
    return payer, (payer + rng.integers(-200, 201, flows)) % companies


STRUCTURES: dict[str, Callable[..., tuple[Ids64, Ids64]]] = {
    "zipf": zipf,
    "uniform": uniform,
    "long_cycle": long_cycle,
    "payments": payment_network,
    "local": local,
}


def power_law(
    companies: int,
    flows: int,
    seed: int = 0,
    alpha: float = 0.7,
    shared: float = 0.5,
    mu: float = 7.0,
    sigma: float = 2.0,
) -> tuple[Ids64, Ids64, Ids64]:
    """Return (payer, payee, amount in minor units) of distinct flows with lognormal amounts, a Chung-Lu graph.

    The expected number of flows of the company of rank k falls as k ** -alpha; a share `shared` of the companies has
    the same rank as payer and as payee, the others two independent ones.
    """
    rng = np.random.default_rng(seed)
    weight = np.arange(1, companies + 1) ** -alpha
    paying = weight[rng.permutation(companies)]
    same_rank = rng.random(companies) < shared
    receiving = np.where(same_rank, paying, weight[rng.permutation(companies)])
    pays, receives = np.cumsum(paying) / paying.sum(), np.cumsum(receiving) / receiving.sum()
    pair = np.empty(0, np.int64)
    while pair.size < flows:
        draws = int((flows - pair.size) * 1.3) + 1000
        payer, payee = np.searchsorted(pays, rng.random(draws)), np.searchsorted(receives, rng.random(draws))
        payer, payee = np.minimum(payer, companies - 1), np.minimum(payee, companies - 1)
        pair = np.unique(np.concatenate([pair, (payer * companies + payee)[payer != payee]]))
    pair = np.sort(rng.permutation(pair)[:flows])
    amount = np.maximum(1, np.rint(rng.lognormal(mu, sigma, flows))).astype(np.int64)
    return pair // companies, pair % companies, amount


def payments(
    seed: int = 20261121, accounts: int = 100_000, payments: int = 1_000_000, rings: int = 1_000
) -> tuple[Ids64, Ids64, Ids64, Floats, Ids64]:
    """Return a month of payments in order of time: (payer, payee, second, amount, ring or -1).

    `rings` round trips of 2 to 5 hops are planted, each within three days, each hop passing on 98% of the one before.
    """
    rng = np.random.default_rng(seed)
    pays, receives = _activity(rng, accounts), _activity(rng, accounts)
    payer, payee = rng.choice(accounts, payments, p=pays), rng.choice(accounts, payments, p=receives)
    payee[payer == payee] = (payee[payer == payee] + 1) % accounts
    second, amount = rng.integers(0, 30 * SECONDS_A_DAY, payments), np.round(rng.lognormal(6, 1.5, payments), 2)
    planted = [hop for ring in range(rings) for hop in _planted_ring(rng, ring, accounts)]
    columns = [payer, payee, second, amount, np.full(payments, -1)]
    if planted:
        columns = [
            np.concatenate(both) for both in zip(columns, map(np.array, zip(*planted, strict=True)), strict=True)
        ]
    order = np.argsort(columns[2], kind="stable")
    payer, payee, second, amount, ring_of = (column[order] for column in columns)
    return payer, payee, second, amount, ring_of


def _activity(rng: np.random.Generator, accounts: int) -> Floats:
    """Return each account's share of the payments: Pareto with exponent 1.2, cut off at 2000."""
    activity: Floats = np.minimum((1 - rng.random(accounts)) ** (-1 / 1.2), 2000)
    share: Floats = activity / activity.sum()
    return share


def _planted_ring(rng: np.random.Generator, ring: int, accounts: int) -> list[tuple[int, int, int, float, int]]:
    """Return the payments of one ring."""
    hops = 2 + ring % 4
    members = rng.choice(accounts, hops, replace=False)
    start = rng.integers(0, 27 * SECONDS_A_DAY)
    later = np.sort(rng.choice(3 * SECONDS_A_DAY - 1, hops, replace=False))
    value = float(np.round(rng.lognormal(9, 1), 2))
    return [
        (members[hop], members[(hop + 1) % hops], start + later[hop], round(value * 0.98**hop, 2), ring)
        for hop in range(hops)
    ]
