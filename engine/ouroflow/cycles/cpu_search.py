"""The search for round trips in time: which first payments lead back to their payer, and along which payments.

For each payment that could be the first one, it is settled whether its payee can pay its payer back in time. Cheap
questions come first: is the payer paid at all within the window, and does the payee pay before that. Then payments are
followed from the payee on, and from the payer back, a few of each: whoever runs dry has settled the question. What is
still open is cut in time and followed from both ends to the cut: both halves meet in some company, or
there is no round trip. Two halves of a tree of payments are far smaller than the whole.

Each payment is looked at once per search: a company that was reached at some time has nothing new to offer to money
that reaches it later. The answer is exact, with limited hops too: the search goes hop by hop, and a walk that passes
through a company twice can be cut short to one that does not.

Where there is a round trip, each company on the way gets the last rank at which money there still comes back
(`latest`), and all round trips are listed depth first under these bounds. They ignore that companies must be distinct,
so the listing could run into dead ends without end; once it has taken `PATIENCE` steps without finding anything, every
further step is asked first whether it can still come back around the companies on the path. Between two round trips
there are then at most (hops x payments in the window) such questions: the time per round trip is polynomial (the idea
of Read & Tarjan 1975; Johnson 1975 blocks instead).

With the amount rule the payments are followed one by one, since the next hop depends on the amount of the one before.
That loosens the last point: a path around other companies may not keep the rule, so dead ends remain possible, and
only the budget bounds them.

Memory per thread: 41 bytes a company, and up to 16 bytes a payment (17 with the amount rule), touched only as far as
the searches reach.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import int64, njit

from ouroflow.cycles.cpu_index import CLOSES, FOLLOWED, LINK, NEVER, OTHER, OWNER, WHEN, Int32s, Int64s, PaymentIndex

Bytes = npt.NDArray[np.uint8]

FORWARD, BACKWARD = 0, 1
"""Columns of `Scratch.reached` and `Scratch.away` for a direction."""
CLOSED = -1
"""Place of a company that must not be passed."""
FEW = 16
"""Payments followed from each end before the search is cut in time."""
FEW_KEPT = 2048
"""Payments read under the amount rule, which hold few that keep it, before the question without amounts is asked."""
PATIENCE = 1000
"""Steps of the listing without a find after which every step is questioned."""
LOOK = 4096
"""Steps between two looks at the stop sign."""
NOT_BACK, AHEAD, BEHIND, ACROSS = 0, 1, 2, 3
"""Whether the money of a first payment comes back, and whether `found` holds all payments that lead on from it, all that lead
back to its payer, or neither."""
DONE, FULL, STOPPED = 0, 1, 2
"""How a search ended: all listed, limit reached, stopped from outside."""
INT64_MAX = 2**63 - 1
SMALL = 2**42
"""Amounts up to this stay inside int64 when multiplied by a term of the amount rule."""


class Scratch(NamedTuple):
    """What one thread needs to search; given back as it was found.

    Attributes
    ----------
    reached : int32[companies, 2]
        Forwards and backwards: first row of the company that is done, NEVER where it is not reached.
    away : int32[companies, 2]
        Hops to reach it, where hops are limited.
    touched : int32[2 * companies + 4]
        Companies whose entries of `reached` are not as in the beginning.
    queue : int32[payments + 1, 2]
        Rows to follow: from, to.
    found : int64[payments + 1]
        Payments that a search followed: WHEN and row in one number.
    latest : int32[companies]
        Last rank at which money at the company comes back; -1: never.
    labelled : int32[companies + 1]
        Companies with a `latest`.
    on_path : uint8[companies]
        Companies of the path that is being listed.
    path, cursor : int32[companies + 2]
        Rows of the path, and the next row to try after each.
    kept : uint8[payments + 1]
        Payments that were followed under the amount rule; of size 1 without it.
    """

    reached: Int32s
    away: Int32s
    touched: Int32s
    queue: Int64s
    found: Int64s
    latest: Int32s
    labelled: Int32s
    on_path: Bytes
    path: Int32s
    cursor: Int32s
    kept: Bytes


class Rule(NamedTuple):
    """What counts as a round trip.

    Attributes
    ----------
    hops : int or None
        Most payments. None is a type of its own for the compiler: where hops are not limited, nothing counts them.
    gap : int
        Ranks between two payments at least: 1, or 0 where equal times may follow each other.
    share, of : int
        The amount rule as a fraction, at most 1; 0 of 1 without.
    """

    hops: int | None
    gap: int
    share: int
    of: int


def new_scratch(companies: int, payments: int, amount_rule: bool) -> Scratch:
    """Return the scratch of one thread."""
    return Scratch(
        np.full((companies, 2), NEVER, np.int32),
        np.empty((companies, 2), np.int32),
        np.empty(2 * companies + 4, np.int32),
        np.empty(payments + 1, np.int64),
        np.empty(payments + 1, np.int64),
        np.full(companies, -1, np.int32),
        np.empty(companies + 1, np.int32),
        np.zeros(companies, np.uint8),
        np.empty(companies + 2, np.int32),
        np.empty(companies + 2, np.int32),
        np.zeros(payments + 1 if amount_rule else 1, np.uint8),
    )


@njit(cache=True, nogil=True)
def search(
    index: PaymentIndex, scratch: Scratch, rule: Rule, roots: Int32s, limit: int, stop: Bytes, one_each: bool
) -> tuple[Int32s, Int32s, int]:
    """List the round trips whose first payer is one of `roots`; only one of each root if `one_each`.

    Returns
    -------
    steps : int32[payments of all round trips]
        Rows of `outgoing`, one round trip after the other.
    lengths : int32[round trips]
        Payments of each.
    ending : int
        DONE, FULL (there are more than `limit`, or so many) or STOPPED (`stop[0]` was set).
    """
    # Most first payments are settled here. Arrays are handed on one by one: a tuple of many costs more than the search.
    outgoing, incoming, limits = index.outgoing, index.incoming, index.limits
    out_offsets, in_offsets = index.out_offsets, index.in_offsets
    reached, away, touched = scratch.reached, scratch.away, scratch.touched
    queue, found, kept = scratch.queue, scratch.found, scratch.kept
    amount, latest, labelled = index.amount, scratch.latest, scratch.labelled
    steps, lengths = np.empty(64, np.int32), np.empty(16, np.int32)
    used = count = looked = 0
    mirror = index.last.size - 1
    most_paid = 0
    for root in roots:
        most_paid = max(most_paid, out_offsets[root + 1] - out_offsets[root])
    hopeful, paid_backs = np.empty(most_paid, np.int32), np.empty(most_paid, np.int32)
    for root in roots:
        some = first_payments(
            outgoing, incoming, limits, rule.gap, out_offsets[root], out_offsets[root + 1],
            in_offsets[root + 1], in_offsets[root], mirror, hopeful, paid_backs,
        )  # fmt: skip
        for chosen in range(some):
            row, paid_back = hopeful[chosen], paid_backs[chosen]
            payee, onward, until = outgoing[row, OTHER], outgoing[row, LINK], mirror - incoming[paid_back, WHEN]
            looked += 1
            if looked % LOOK == 0 and stop[0]:
                return steps[:used], lengths[:count], STOPPED
            if rule.share:
                followed, met, whole = follow_kept(outgoing, amount, rule, row, until, FEW_KEPT, queue, found, kept)
            else:
                # A few payments are sooner followed than their hops counted: the listing will count them.
                touches = set_out(reached, away, touched, None, root, payee, onward, paid_back)
                touches, followed, met, whole = reach(
                    outgoing, reached, away, touched, queue, found, touches,
                    onward, NEVER, root, until, 2, None, FORWARD, BACKWARD, FEW, False,
                )  # fmt: skip
                forget(reached, touched, touches)
            answer = AHEAD if met else NOT_BACK
            if not whole:
                answer, followed = settle(
                    outgoing, incoming, reached, away, touched, queue, found, rule, row, until, paid_back
                )
                if rule.share and answer != NOT_BACK:
                    followed, met, _ = follow_kept(outgoing, amount, rule, row, until, 2**62, queue, found, kept)
                    answer = AHEAD if met else NOT_BACK
            if answer == NOT_BACK:
                continue
            if answer == AHEAD:
                labels = label_forward(outgoing, latest, labelled, found[:followed], rule.gap, root, 0)
            elif answer == BEHIND:
                labels = label_backward(incoming, latest, labelled, found[:followed], mirror)
            else:
                labels = label_across(index, scratch, rule, row, until, paid_back)
            before = count
            steps, used, lengths, count, ending = list_round_trips(
                index, scratch, rule, row, until, steps, used, lengths, count, count + 1 if one_each else limit, stop
            )
            for at in range(labels):
                latest[labelled[at]] = -1
            if one_each and count > before and ending != STOPPED:
                break
            if ending != DONE:
                return steps[:used], lengths[:count], ending
    return steps[:used], lengths[:count], DONE


@njit(cache=True, nogil=True)
def first_payments(
    outgoing: Int32s,
    incoming: Int32s,
    limits: Int32s,
    gap: int,
    row: int,
    last_row: int,
    begin: int,
    end: int,
    mirror: int,
    hopeful: Int32s,
    paid_backs: Int32s,
) -> int:
    """Choose the payments of a company after which it is paid within the window, and their payee pays before that.

    The company is paid in the rows `begin` to `end`. Writes the payments, and for each the last payment to the company
    in its window, and returns how many they are.
    """
    chosen, paid_back = 0, end
    if begin == end:
        return 0
    latest = mirror - incoming[begin, WHEN]
    while row < last_row:
        opens = outgoing[row, WHEN]
        if opens + gap > latest:
            break
        closes = mirror - limits[row, CLOSES]
        while paid_back > begin and incoming[paid_back - 1, WHEN] >= closes:
            paid_back -= 1
        if paid_back < end and limits[row, FOLLOWED] <= mirror - incoming[paid_back, WHEN]:
            hopeful[chosen] = row
            paid_backs[chosen] = paid_back
            chosen += 1
        row += 1
    return chosen


@njit(cache=True, nogil=True)
def reach(
    rows: Int32s,
    reached: Int32s,
    away: Int32s,
    touched: Int32s,
    queue: Int64s,
    found: Int64s,
    touches: int,
    begin: int,
    end: int,
    far_end: int,
    until: int,
    depth: int,
    hops: int | None,
    mine: int,
    theirs: int,
    most: int,
    stop_at_meeting: bool,
) -> tuple[int, int, bool, bool]:
    """Follow the payments `begin` to `end` of one company, and what may follow them, until rank `until`.

    `depth` is the hop of the first payments. A company that the other direction (`theirs`) has reached is a meeting if
    both ways together have no more than `hops`; nothing is followed beyond `far_end`, where the other direction begins.

    Returns
    -------
    touches, followed : int
        Entries of `touched`, and payments that were followed: they are in `found` unless the first meeting ends it.
    met, whole : bool
        Whether there was a meeting, and whether all was followed: at most `most` payments are.
    """
    queue[0] = (int64(begin) << 32) | end
    head, tail, layer, followed = 0, 1, 1, 0
    met = False
    while head < tail:
        if hops is not None:
            if head == layer:
                depth += 1
                layer = tail
            if depth > hops:
                break
        entry = queue[head]
        head += 1
        row, stop = entry >> 32, entry & NEVER
        owner = rows[row, OWNER]
        while row < stop and rows[row, OWNER] == owner and rows[row, WHEN] <= until:
            if followed == most:
                return touches, followed, met, False
            if not stop_at_meeting:
                found[followed] = (int64(rows[row, WHEN]) << 32) | row
            followed += 1
            other = rows[row, OTHER]
            link, done = rows[row, LINK], reached[other, mine]
            if link < done:
                reached[other, mine] = link
                if done == NEVER:
                    touched[touches] = other
                    touches += 1
                    if hops is not None:
                        away[other, mine] = depth
                    if reached[other, theirs] != NEVER:
                        if hops is None or depth + away[other, theirs] <= hops:
                            met = True
                        if met and stop_at_meeting:
                            return touches, followed, True, True
                if other != far_end and rows[link, OWNER] == other:
                    queue[tail] = (int64(link) << 32) | done
                    tail += 1
            row += 1
    return touches, followed, met, True


@njit(cache=True, nogil=True)
def forget(reached: Int32s, touched: Int32s, touches: int) -> None:
    """Make the touched companies unreached again."""
    for at in range(touches):
        reached[touched[at], FORWARD] = NEVER
        reached[touched[at], BACKWARD] = NEVER


@njit(cache=True, nogil=True)
def set_out(
    reached: Int32s, away: Int32s, touched: Int32s, hops: int | None, root: int, payee: int, onward: int, paid_back: int
) -> int:
    """Reach the two ends of a first payment: its payee with one hop, its payer, backwards, with none."""
    touched[0], touched[1] = root, payee
    reached[root, BACKWARD], reached[payee, FORWARD] = paid_back, onward
    if hops is not None:
        away[root, BACKWARD], away[payee, FORWARD] = 0, 1
    return 2


@njit(cache=True, nogil=True)
def settle(
    outgoing: Int32s,
    incoming: Int32s,
    reached: Int32s,
    away: Int32s,
    touched: Int32s,
    queue: Int64s,
    found: Int64s,
    rule: Rule,
    row: int,
    until: int,
    paid_back: int,
) -> tuple[int, int]:
    """Tell whether the money of a first payment comes back, when what follows it is more than a few payments.

    Returns
    -------
    answer : int
        NOT_BACK; BEHIND: all payments that lead back after the first one are in `found`; ACROSS: the halves of time meet.
    followed : int
        Entries of `found`.
    """
    opens, payee, onward, root = outgoing[row, WHEN], outgoing[row, OTHER], outgoing[row, LINK], outgoing[row, OWNER]
    mirror, everything = until + incoming[paid_back, WHEN], found.size
    touches = set_out(reached, away, touched, None, root, payee, onward, paid_back)
    touches, followed, met, whole = reach(
        incoming, reached, away, touched, queue, found, touches,
        paid_back, NEVER, payee, mirror - opens - rule.gap, 1, None, BACKWARD, FORWARD, FEW, False,
    )  # fmt: skip
    forget(reached, touched, touches)
    if whole:
        return BEHIND if met else NOT_BACK, followed
    middle = cut(outgoing[onward, WHEN], until)
    touches = set_out(reached, away, touched, rule.hops, root, payee, onward, paid_back)
    touches, _, met, _ = reach(
        outgoing, reached, away, touched, queue, found, touches,
        onward, NEVER, root, middle, 2, rule.hops, FORWARD, BACKWARD, everything, True,
    )  # fmt: skip
    if not met:
        touches, _, met, _ = reach(
            incoming, reached, away, touched, queue, found, touches,
            paid_back, NEVER, payee, mirror - middle - 1, 1, rule.hops, BACKWARD, FORWARD, everything, True,
        )  # fmt: skip
    forget(reached, touched, touches)
    return ACROSS if met else NOT_BACK, 0


@njit(cache=True, nogil=True)
def cut(opens: int, closes: int) -> int:
    """Cut a span of ranks where both halves cost the same: what follows one payment grows faster than what leads back."""
    return (3 * opens + 2 * closes) // 5


@njit(cache=True, nogil=True)
def label_across(index: PaymentIndex, scratch: Scratch, rule: Rule, row: int, until: int, paid_back: int) -> int:
    """Label from both halves of time: first what leads back after the cut, then what leads there before."""
    outgoing, incoming, queue, found = index.outgoing, index.incoming, scratch.queue, scratch.found
    reached, away, touched = scratch.reached, scratch.away, scratch.touched
    payee, onward, root = outgoing[row, OTHER], outgoing[row, LINK], outgoing[row, OWNER]
    mirror, everything = index.last.size - 1, found.size
    middle = cut(outgoing[onward, WHEN], until)
    touches = set_out(reached, away, touched, rule.hops, root, payee, onward, paid_back)
    touches, followed, _, _ = reach(
        incoming, reached, away, touched, queue, found, touches,
        paid_back, NEVER, payee, mirror - middle - 1, 1, rule.hops, BACKWARD, FORWARD, everything, False,
    )  # fmt: skip
    labels = label_backward(incoming, scratch.latest, scratch.labelled, found[:followed], mirror)
    touches, followed, _, _ = reach(
        outgoing, reached, away, touched, queue, found, touches,
        onward, NEVER, root, middle, 2, rule.hops, FORWARD, BACKWARD, everything, False,
    )  # fmt: skip
    forget(reached, touched, touches)
    return label_forward(outgoing, scratch.latest, scratch.labelled, found[:followed], rule.gap, root, labels)


@njit(cache=True, nogil=True)
def label_backward(incoming: Int32s, latest: Int32s, labelled: Int32s, found: Int64s, mirror: int) -> int:
    """Label the payers of payments that all lead back; return the number of labelled companies."""
    labels = 0
    for at in range(found.size):
        payer, when = incoming[found[at] & NEVER, OTHER], mirror - (found[at] >> 32)
        if latest[payer] < when:
            if latest[payer] < 0:
                labelled[labels] = payer
                labels += 1
            latest[payer] = when
    return labels


@njit(cache=True, nogil=True)
def label_forward(
    outgoing: Int32s, latest: Int32s, labelled: Int32s, found: Int64s, gap: int, root: int, labels: int
) -> int:
    """Label the payers of those payments that lead to the root, or to a label in time; return the number of labels.

    One pass from the last payment to the first does, unless payments of one time may follow each other.
    """
    if found.size > 1:
        found.sort()
    changed = True
    while changed:
        changed = False
        for at in range(found.size - 1, -1, -1):
            when, row = found[at] >> 32, found[at] & NEVER
            payer, payee = outgoing[row, OWNER], outgoing[row, OTHER]
            if latest[payer] < when and (payee == root or latest[payee] >= when + gap):
                if latest[payer] < 0:
                    labelled[labels] = payer
                    labels += 1
                latest[payer] = when
                changed = gap == 0
    return labels


@njit(cache=True, nogil=True)
def follow_kept(
    outgoing: Int32s,
    amount: Int64s,
    rule: Rule,
    row: int,
    until: int,
    most: int,
    queue: Int64s,
    found: Int64s,
    kept: Bytes,
) -> tuple[int, bool, bool]:
    """Follow the money of a first payment through payments that each keep the amount rule with the one before.

    Returns
    -------
    followed : int
        Entries of `scratch.found`.
    met, whole : bool
        Whether the root was reached, and whether all was followed: at most `most` payments are read.
    """
    root, first_payee = outgoing[row, OWNER], outgoing[row, OTHER]
    queue[0] = row
    head, tail, layer, depth, followed, read = 0, 1, 1, 2, 0, 0
    most_hops = most_payments(rule.hops)
    met, whole = False, True
    while head < tail and whole:
        if head == layer:
            depth += 1
            layer = tail
        if depth > most_hops:
            break
        before = queue[head]
        head += 1
        owner, at = outgoing[before, OTHER], outgoing[before, LINK]
        least, most_amount = amounts_kept(amount[before], rule.share, rule.of)
        while outgoing[at, OWNER] == owner and outgoing[at, WHEN] <= until:
            if read == most:
                whole = False
                break
            read += 1
            if kept[at] == 0 and least <= amount[at] <= most_amount:
                kept[at] = 1
                found[followed] = (int64(outgoing[at, WHEN]) << 32) | at
                followed += 1
                payee = outgoing[at, OTHER]
                if payee == root:
                    met = True
                elif payee != first_payee:
                    queue[tail] = at
                    tail += 1
            at += 1
    for at in range(followed):
        kept[found[at] & NEVER] = 0
    return followed, met, whole


@njit(cache=True, nogil=True)
def amounts_kept(amount: int, share: int, of: int) -> tuple[int, int]:
    """Return the least and the most that a payment beside one of `amount` may carry: exact in int64.

    The rule share/of <= next/before <= of/share is the same for the payment before and the one after. `share` and `of`
    are at most 10**6, so the products of remainders stay far inside int64.
    """
    if amount <= SMALL:
        return (amount * share + of - 1) // of, amount * of // share
    whole, rest = amount // of, amount % of
    least = whole * share + (rest * share + of - 1) // of
    whole, rest = amount // share, amount % share
    if whole > (INT64_MAX - of) // of:
        return least, INT64_MAX
    return least, whole * of + rest * of // share


@njit(cache=True, nogil=True)
def list_round_trips(
    index: PaymentIndex,
    scratch: Scratch,
    rule: Rule,
    first: int,
    until: int,
    steps: Int32s,
    used: int,
    lengths: Int32s,
    count: int,
    limit: int,
    stop: Bytes,
) -> tuple[Int32s, int, Int32s, int, int]:
    """List the round trips that begin with payment `first`, depth first under the labels; append them to what is listed.

    Returns
    -------
    steps, used, lengths, count
        As given, and grown.
    ending : int
        DONE, FULL or STOPPED.
    """
    outgoing, amount, latest, on_path = index.outgoing, index.amount, scratch.latest, scratch.on_path
    path, cursor = scratch.path, scratch.cursor
    root, opens = outgoing[first, OWNER], outgoing[first, WHEN]
    least, most, most_hops = 0, INT64_MAX, most_payments(rule.hops)
    depth, fruitless, taken, ending = 0, 0, 0, DONE
    path[0], cursor[0] = first, outgoing[first, LINK]
    on_path[outgoing[first, OTHER]] = 1
    if rule.share:
        least, most = amounts_kept(amount[first], rule.share, rule.of)
    while depth >= 0 and ending == DONE:
        company, row, entered = outgoing[path[depth], OTHER], cursor[depth], False
        last = latest[company]
        while outgoing[row, OWNER] == company and outgoing[row, WHEN] <= last:
            fruitless += 1
            taken += 1
            if taken % LOOK == 0 and stop[0]:
                ending = STOPPED
                break
            payee, when = outgoing[row, OTHER], outgoing[row, WHEN]
            if least <= amount[row] <= most:
                if payee == root:
                    if when > opens or begins_first(index.order, path, depth, row):
                        if count == limit:
                            ending = FULL
                            break
                        steps, lengths = with_room(steps, used + depth + 2), with_room(lengths, count + 1)
                        steps[used : used + depth + 1] = path[: depth + 1]
                        steps[used + depth + 1] = row
                        lengths[count] = depth + 2
                        used += depth + 2
                        count += 1
                        fruitless = 0
                elif latest[payee] >= when + rule.gap and on_path[payee] == 0 and depth + 3 <= most_hops:
                    path[depth + 1] = row
                    if fruitless < PATIENCE or comes_back(index, scratch, rule.hops, depth + 1, until):
                        entered = True
                        break
            row += 1
        cursor[depth] = row + 1
        if entered:
            depth += 1
            cursor[depth] = outgoing[row, LINK]
            on_path[outgoing[row, OTHER]] = 1
        elif ending == DONE:
            on_path[company] = 0
            depth -= 1
        if rule.share and depth >= 0:
            least, most = amounts_kept(amount[path[depth]], rule.share, rule.of)
    for at in range(depth + 1):
        on_path[outgoing[path[at], OTHER]] = 0
    return steps, used, lengths, count, ending


@njit(cache=True, nogil=True)
def begins_first(order: Int32s, path: Int32s, depth: int, closing: int) -> bool:
    """Tell whether a round trip in which all times are equal is listed from its first row: so it is counted once."""
    first = order[path[0]]
    for at in range(1, depth + 1):
        if order[path[at]] < first:
            return False
    return first < order[closing]


@njit(cache=True, nogil=True)
def comes_back(index: PaymentIndex, scratch: Scratch, hops: int | None, depth: int, until: int) -> bool:
    """Tell whether the money of the last payment of the path comes back around the companies on it."""
    outgoing, reached, touched, path = index.outgoing, scratch.reached, scratch.touched, scratch.path
    root = outgoing[path[0], OWNER]
    touched[0] = root
    reached[root, BACKWARD] = 0
    if hops is not None:
        scratch.away[root, BACKWARD] = 0
    for at in range(depth + 1):
        company = outgoing[path[at], OTHER]
        touched[at + 1] = company
        reached[company, FORWARD] = CLOSED
    touches, _, met, _ = reach(
        outgoing,
        reached,
        scratch.away,
        touched,
        scratch.queue,
        scratch.found,
        depth + 2,
        outgoing[path[depth], LINK],
        NEVER,
        root,
        until,
        depth + 2,
        hops,
        FORWARD,
        BACKWARD,
        index.order.size,
        True,
    )
    forget(reached, touched, touches)
    return met


@njit(cache=True, nogil=True)
def most_payments(hops: int | None) -> int:
    """Return the limit of hops as a number."""
    if hops is None:
        return INT64_MAX
    return hops


@njit(cache=True, nogil=True)
def with_room(values: Int32s, size: int) -> Int32s:
    """Return the values in an array of at least `size`, which at least doubles when it grows."""
    if size <= values.size:
        return values
    larger = np.empty(max(size, 2 * values.size), np.int32)
    larger[: values.size] = values
    return larger
