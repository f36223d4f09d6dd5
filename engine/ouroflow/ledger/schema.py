"""What a table of payments looks like: the roles of its columns, the reasons to refuse a row, and the ``Ledger`` itself."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ouroflow.errors import InputError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from ouroflow.graph import FlowGraph, Ids
    from ouroflow.graph_gpu import DeviceGraph
    from ouroflow.runtime.launch import Accelerator

ROLES = ("payer", "payee", "amount", "time", "id", "currency", "status", "kind", "low", "high")
"""What a column can stand for. Payer and payee are needed; a table of two columns may do without an amount."""

REASONS = (
    "used",
    "status not selected",
    "missing payer",
    "missing payee",
    "missing amount",
    "amount not a number",
    "amount not finite",
    "missing currency",
    "no rate for currency",
    "amount too large",
    "negative amount",
    "zero amount",
    "range not a number",
    "range out of order",
    "bad time",
    "wrong number of fields",
)
"""Why a row is not used. The position is the code of the reason; a row with several faults gets the lowest code."""

(
    USED,
    NOT_SELECTED,
    MISSING_PAYER,
    MISSING_PAYEE,
    MISSING_AMOUNT,
    NOT_A_NUMBER,
    NOT_FINITE,
    MISSING_CURRENCY,
    NO_RATE,
    TOO_LARGE,
    NEGATIVE,
    ZERO,
    RANGE_NOT_A_NUMBER,
    RANGE_OUT_OF_ORDER,
    BAD_TIME,
    WRONG_FIELDS,
) = range(len(REASONS))

ADVICE = {
    NOT_A_NUMBER: "amounts are plain numbers such as 1234.50, without thousands separators or currency signs",
    NEGATIVE: "a negative amount can be read as money paid back by the payee: reversals='flip' (--reversals flip)",
    ZERO: "an amount may also be smaller than half a minor unit: raise decimals (--decimals)",
    TOO_LARGE: "amounts are held as 64-bit integers: lower decimals (--decimals) or use a coarser unit",
    MISSING_CURRENCY: "currency='' (--currency '') reads all amounts as if they were in one currency",
    NO_RATE: "add the currency, or an earlier date, to the table of rates (--rates)",
    BAD_TIME: "times are 2025-01-31, 2025-01-31 13:45:00+09:00, epoch seconds and the like; "
    "time='' (--time '') reads without times",
    WRONG_FIELDS: "a value that holds the delimiter must be quoted",
}
"""What to do about some of the reasons."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file or frame that was read.

    Attributes
    ----------
    path : str
        Path or URL as given, or the kind of frame.
    sha256 : str or None
        Of the bytes of a local file. None for frames, which have no bytes of their own, and for object stores, where it would
        mean downloading what the reading skips; their `version` stands in for it.
    bytes : int or None
        Size of the file.
    rows : int
        Rows read from it, whatever became of them.
    version : str or None
        What the object store says identifies the content (etag, generation, size and time).
    """

    path: str
    sha256: str | None
    bytes: int | None
    rows: int
    version: str | None = None


@dataclass(frozen=True, slots=True)
class RowCount:
    """The account of every row: ``read == used + self_payments + sum(rejected)``, enforced.

    Attributes
    ----------
    read, used, self_payments : int
    rejected : dict of str to int
        Number of rows by reason (`REASONS`), in the order of the reasons; no zeros.
    """

    read: int
    used: int
    self_payments: int
    rejected: dict[str, int]

    def __post_init__(self) -> None:
        """Refuse an account that does not add up: that is a defect of the reader, never of the data."""
        if self.read != self.used + self.self_payments + sum(self.rejected.values()):
            raise AssertionError(f"rows do not add up: {self}")


@dataclass(frozen=True, eq=False)
class Ledger:
    """Payments that were read and checked, and the account of every row. Built by :func:`ouroflow.read_ledger`.

    All arrays have one entry per payment that is used, in the order of the input. Amounts are int64 minor units: multiples
    of 10^-decimals of the unit of the input.

    Attributes
    ----------
    payer, payee : int32 (int64 from 2**31 companies on) array of shape (payments,)
        Positions in `companies`.
    amount : int64 array of shape (payments,)
        Minor units, positive.
    companies : pyarrow.Array
        Identity of each company: text, or int64 where every file holds integers.
    rows : RowCount
    inputs : tuple of InputFile
    file_offsets : int64 array of shape (files + 1,)
        Position in the whole input at which each file begins.
    columns : dict of str to str
        Column used for each role.
    guessed : tuple of str
        The roles among them whose column was guessed.
    decimals : int
    unused : int64 array
        Positions in the whole input, from 0 and ascending, of the rows that are not used.
    time : int64 array of shape (payments,) or None
        Nanoseconds since 1970 UTC, or the integers of the file as they are: see `time_unit`.
    time_unit : str or None
        "ns" or "steps" (day numbers and the like, kept as they are).
    payment_id : pyarrow.ChunkedArray or None
    status, kind : pyarrow.DictionaryArray or None
    low, high : int64 array of shape (payments,) or None
        Announced range of each amount, minor units; the amount itself where none is stated.
    inflow, outflow : int64 array of shape (companies,) or None
        Known external flows, minor units.
    self_amount : int
        Sum of the payments to oneself, minor units.
    totals_by_status : dict of str to int
        Sum of the used payments of each status, minor units.
    not_selected : dict of str to int
        Number of rows of each status that was not chosen.
    currency : str or None
        Of the amounts, where the input names one.
    rounding : Fraction
        Sum of the amounts as used minus their sum as written, in minor units; payments to oneself included, amounts converted
        by a rate not. Exact: a float counts as its shortest decimal where that is a whole number of minor units, else as the
        binary number it is.
    rejected : pyarrow.Table or None
        File, row (from 1), reason, and the values of each refused row as text. Rows of another status are only counted.
    notes : tuple of str
        What was assumed, for the user to read.
    on : Accelerator or None
        In whose memory `payer`, `payee` and `amount` lie; None: on the host, as all else does.

    Notes
    -----
    Memory: 16 bytes per payment (24 with int64 ids), plus 8 each for time, low and high, 4 each for status and kind, and
    the payment ids as Arrow text, where they are present; 8 bytes per row that is not used.
    """

    payer: Ids
    payee: Ids
    amount: npt.NDArray[np.int64]
    companies: pa.Array
    rows: RowCount
    inputs: tuple[InputFile, ...]
    file_offsets: npt.NDArray[np.int64]
    columns: dict[str, str]
    guessed: tuple[str, ...]
    decimals: int
    unused: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    time: npt.NDArray[np.int64] | None = None
    time_unit: str | None = None
    payment_id: pa.ChunkedArray | None = None
    status: pa.DictionaryArray | None = None
    kind: pa.DictionaryArray | None = None
    low: npt.NDArray[np.int64] | None = None
    high: npt.NDArray[np.int64] | None = None
    inflow: npt.NDArray[np.int64] | None = None
    outflow: npt.NDArray[np.int64] | None = None
    self_amount: int = 0
    totals_by_status: dict[str, int] = field(default_factory=dict)
    not_selected: dict[str, int] = field(default_factory=dict)
    currency: str | None = None
    rounding: Fraction = Fraction(0)
    rejected: pa.Table | None = None
    notes: tuple[str, ...] = ()
    on: Accelerator | None = None

    def __post_init__(self) -> None:
        """Make every array read-only."""
        for value in vars(self).values():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)

    def __len__(self) -> int:
        """Return the number of payments that are used."""
        return len(self.amount)

    @cached_property
    def host(self) -> Ledger:
        """The same ledger with all arrays on the host; what lies on a device is copied once."""
        if self.on is None:
            return self
        down = self.on.to_host
        return replace(self, on=None, payer=down(self.payer), payee=down(self.payee), amount=down(self.amount))

    def graph(self, on: Accelerator | None = None) -> FlowGraph | DeviceGraph:
        """Sum the payments into flows.

        Parameters
        ----------
        on : Accelerator, optional
            Where to. Default: where the payments lie.

        Raises
        ------
        InputError
            If the sum of all amounts passes int64.
        ResourceError
            If the flows do not fit the device.
        """
        on = on or self.on
        company = {
            "companies": len(self.companies),
            "names": self.companies,
            "inflow": self.inflow,
            "outflow": self.outflow,
        }
        graph: FlowGraph | DeviceGraph
        if on is None:
            from ouroflow.graph import FlowGraph

            graph = FlowGraph.from_payments(self.payer, self.payee, self.amount, **company)
        else:
            from ouroflow.graph_gpu import DeviceGraph

            graph = DeviceGraph.from_payments(on, self.payer, self.payee, self.amount, **company)
        return replace(graph, self_payments=self.rows.self_payments, self_amount=self.self_amount)

    def where(self, payments: npt.ArrayLike) -> list[tuple[str, int]]:
        """Return file and row number (from 1) of the payments at these positions.

        Parameters
        ----------
        payments : integer array
            Positions in the arrays of this ledger.
        """
        chosen = np.asarray(payments, dtype=np.int64)
        position = skip_positions(chosen, self.unused)
        file = np.searchsorted(self.file_offsets, position, side="right") - 1
        row = position - self.file_offsets[file] + 1
        return [(self.inputs[f].path, int(r)) for f, r in zip(file, row, strict=True)]


def skip_positions(position: npt.NDArray[np.int64], skipped: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return positions among all rows of rows that are counted without the skipped ones.

    Parameters
    ----------
    position : int64 array
        Positions, from 0, among the rows that are not skipped.
    skipped : int64 array
        Ascending positions of the skipped rows among all.
    """
    if not len(skipped):
        return position
    before = skipped - np.arange(len(skipped))  # rows that are not skipped and stand before each skipped one
    return position + np.searchsorted(before, position, side="right")


# --- column names -------------------------------------------------------------------------------------------------------

# Who pays comes first. Of a sale the buyer pays (공급받는자, 매입자), and the seller is paid (공급자, 매출자).
_PAIRS = (
    ("payer", "payee"), ("payor", "payee"), ("from", "to"), ("source", "target"), ("source", "destination"),
    ("src", "dst"), ("src", "dest"), ("src", "tgt"), ("orig", "dest"), ("originator", "beneficiary"),
    ("sender", "receiver"), ("sender", "recipient"), ("sender", "beneficiary"), ("remitter", "beneficiary"),
    ("debtor", "creditor"), ("debit", "credit"), ("buyer", "seller"), ("buyer", "supplier"), ("buyer", "vendor"),
    ("purchaser", "seller"), ("purchaser", "supplier"), ("customer", "supplier"), ("customer", "vendor"),
    ("client", "supplier"), ("client", "vendor"),
    ("지급인", "수취인"), ("지급인", "수령인"), ("지급자", "수취자"), ("지급자", "수령자"), ("지급인", "영수인"),
    ("송금인", "수취인"), ("송금인", "수신인"), ("송금인", "받는사람"), ("송금자", "수취자"), ("송금자", "수신자"),
    ("송금자", "수령자"), ("송금계좌", "수취계좌"), ("출금계좌", "입금계좌"), ("출금은행", "입금은행"),
    ("보내는사람", "받는사람"), ("보내는분", "받는분"), ("보내는이", "받는이"), ("보내는", "받는"), ("보낸사람", "받은사람"),
    ("보낸분", "받은분"), ("보내는계좌", "받는계좌"), ("공급받는자", "공급자"), ("매입자", "매출자"), ("구매자", "판매자"),
    ("매수인", "매도인"), ("매수자", "매도자"), ("채무자", "채권자"), ("발주자", "수주자"), ("발신인", "수신인"),
)  # fmt: skip
_SUFFIXES = (
    "", "id", "name", "account", "accountid", "accountno", "accountnumber", "acct", "acc", "bank", "no", "number", "code",
    "node", "nodeid", "company", "companyid", "companyname", "entity", "entityid", "entityname", "customer", "customerid",
    "client", "party", "firm", "org", "address", "wallet", "iban", "key", "agent", "industry", "user", "userid",
    "이름", "명", "성명", "상호", "상호명", "회사", "회사명", "코드", "번호", "계좌", "계좌번호", "은행", "사업자번호",
    "등록번호", "사업자등록번호", "거래처", "아이디",
)  # fmt: skip
_CURRENCY_CODES = "usd|eur|krw|won|jpy|cny|rmb|gbp|chf|cad|aud|hkd|sgd|inr|twd|brl|mxn|sek|nok|dkk|pln"
_UNITS = "thousand|million|billion|trillion|bn|mn|tn|mm|k|m|b"
_AMOUNT_WORDS = (
    "amount|amt|value|val|sum|total|totalamount|amounttotal|paidamount|amountpaid|receivedamount|amountreceived|"
    "paymentamount|transactionamount|transactionvalue|txnamount|txamount|transferamount|transfervalue|invoiceamount|"
    "invoicetotal|grossamount|netamount|settlementamount|money|weight|"
    "금액|거래금액|거래액|이체금액|송금금액|송금액|지급액|지급금액|결제금액|입금액|출금액|공급가액|합계금액|총금액|총액|대금|거래대금|매출액|매입액"
)
_LOW_WORDS = "low|lower|min|minimum|하한|최소|최저"
_HIGH_WORDS = "high|upper|max|maximum|상한|최대|최고"
_MONEY_TAIL = f"(?:{_CURRENCY_CODES})?(?:{_UNITS})?"
_PATTERNS = {
    "amount": re.compile(f"(?:{_AMOUNT_WORDS}){_MONEY_TAIL}"),
    "low": re.compile(
        f"(?:(?:amount|amt|value|금액)(?:{_LOW_WORDS})|(?:{_LOW_WORDS})(?:amount|amt|value|금액)?){_MONEY_TAIL}"
    ),
    "high": re.compile(
        f"(?:(?:amount|amt|value|금액)(?:{_HIGH_WORDS})|(?:{_HIGH_WORDS})(?:amount|amt|value|금액)?){_MONEY_TAIL}"
    ),
    "time": re.compile(
        "time|date|datetime|timestamp|ts|day|step|when|(?:announced|paid|issued|created|booked|posted|settled|executed)"
        "(?:on|at|date|time)|(?:payment|transaction|txn|tx|transfer|invoice|booking|value|posting|settlement|issue|event)"
        "(?:date|time|datetime|timestamp)|blocktimestamp|unixtime|epoch|"
        "일자|날짜|일시|시간|시각|거래일|거래일자|거래일시|거래시간|지급일|지급일자|송금일|송금일자|송금일시|이체일|이체일자|이체일시|"
        "작성일|작성일자|발행일|발행일자|입금일|입금일자|출금일|출금일자|결제일|결제일자|결제일시|매출일|매출일자|계약일|계약일자"
    ),
    "currency": re.compile(
        "currency|currencycode|ccy|curr|cur|(?:payment|transaction|receiving|sending|amount|invoice|transfer)"
        "(?:currency|ccy)|통화|통화코드|통화구분|화폐"
    ),
    "id": re.compile(
        "id|uid|uuid|(?:payment|transaction|txn|tx|tran|transfer|invoice|deal|edge|order|document|record)"
        "(?:id|no|number|ref|reference|hash|key)|reference|txhash|hash|"
        "거래번호|승인번호|전표번호|계산서번호|세금계산서번호|송금번호|이체번호|거래id|거래아이디"
    ),
    "status": re.compile("status|state|dealstatus|paymentstatus|transactionstatus|상태|거래상태|진행상태"),
    "kind": re.compile(
        "kind|type|category|(?:payment|transaction|txn|tx|deal|flow|transfer)(?:type|kind|format)|flow|"
        "종류|유형|구분|거래유형|거래구분|거래종류"
    ),
}
_ESSENTIAL = ("amount", "time", "currency")
"""Roles that change the meaning of the result: two candidates stop the reading. Other optional roles are left unused."""


def _name_table() -> dict[str, tuple[tuple[str, ...], int]]:
    """Map every known name of a payer (side 0) or payee (side 1) to the pair it belongs to.

    A name can belong to several pairs; what tells a pair is the affix (id, name, account...), because payer_id and
    payee_name do not describe companies in the same way.
    """
    table: dict[str, tuple[tuple[str, ...], int]] = {}
    for pair, affix in product(_PAIRS, _SUFFIXES):
        for side, word in enumerate(pair):
            for name in (word + affix, affix + word):
                table.setdefault(name, (("", affix), side))
    return table


_PARTIES = _name_table()


def plain_name(column: str) -> str:
    """Return a column name without what spelling changes: case, spaces, underscores, width, units in brackets."""
    text = unicodedata.normalize("NFKC", column).casefold()
    text = re.sub(r"[(\[].*?[)\]]", "", text)
    return re.sub(r"[\s_\-./:#*]+", "", text)


def candidates(role: str, columns: Iterable[str]) -> list[str]:
    """Return the columns whose name is known to mean this role."""
    if role in ("payer", "payee"):
        side = ("payer", "payee").index(role)
        return [column for column in columns if _PARTIES.get(plain_name(column), ((), -1))[1] == side]
    pattern = _PATTERNS[role]
    return [column for column in columns if pattern.fullmatch(plain_name(column))]


def choose_columns(
    columns: Sequence[str], chosen: Mapping[str, str | None], where: str, headerless: bool = False
) -> tuple[dict[str, str], list[str]]:
    """Find the column of each role: those the user names, the rest by their names where that is unambiguous.

    Parameters
    ----------
    columns : sequence of str
        Columns of the table.
    chosen : mapping of role to column
        What the user says. None: guess; "": use none.
    where : str
        File, for messages.
    headerless : bool
        The names are only positions, because the file has no header.

    Returns
    -------
    columns : dict of role to column
    notes : list of str
        What the user should know about roles that were left out.

    Raises
    ------
    InputError
        If a column is not there, or if payer, payee, amount, time or currency has none or several candidates.
    """
    listing = ", ".join(columns)
    found: dict[str, str] = {}
    notes: list[str] = []
    for role, column in chosen.items():
        if column and column not in columns:
            raise InputError(f"{where} has no column {column!r} (asked for as {role}); its columns are: {listing}")
        if column:
            found[role] = column
    if found.get("payer") is not None and found.get("payer") == found.get("payee"):
        raise UsageError(f"payer and payee are both read from column {found['payer']!r}: name two columns")
    if headerless:
        return _by_position(columns, found, where), notes
    found |= _choose_parties(columns, found, where)
    free = [column for column in columns if column not in found.values()]
    for role in ROLES[2:]:
        if role in found or chosen.get(role) == "":
            continue
        names = [name for name in candidates(role, free) if name not in found.values()]
        if len(names) == 1:
            found[role] = names[0]
        elif names and role in _ESSENTIAL:
            without = "" if role == "amount" else f", or without: --{role} ''"
            raise InputError(
                f"{where}: {len(names)} columns can be the {role}: {', '.join(names)}. Say which: --{role} COLUMN{without}. "
                f"All columns: {listing}"
            )
        elif names:
            notes.append(f"no {role} is read: {' and '.join(names)} can both be it; --{role} COLUMN chooses")
    if "amount" not in found and len(columns) > 2 and chosen.get("amount") != "":
        raise InputError(
            f"{where}: no column is known to be the amount. Say which: --amount COLUMN, or count every payment as 1: "
            f"--amount ''. Columns: {listing}"
        )
    if ("low" in found) != ("high" in found):
        lone = "low" if "low" in found else "high"
        if not chosen.get(lone):
            del found[lone]
    return found, notes


def _by_position(columns: Sequence[str], found: dict[str, str], where: str) -> dict[str, str]:
    """Two columns without names are payer and payee; more of them are not guessed."""
    if len(columns) == 2 and not found:
        return {"payer": columns[0], "payee": columns[1]}
    missing = [role for role in ("payer", "payee", "amount") if role not in found]
    if len(columns) > 2 and missing:
        raise InputError(
            f"{where} has no header line, so its {len(columns)} columns cannot be told apart. Name them: "
            + " ".join(f"--{role} 'column N'" for role in missing)
            + f". Columns: {', '.join(columns)}"
        )
    return found


def _choose_parties(columns: Sequence[str], found: Mapping[str, str], where: str) -> dict[str, str]:
    """Find payer and payee: the one pair of columns whose names differ only in who pays and who is paid."""
    payers = [found["payer"]] if "payer" in found else candidates("payer", columns)
    payees = [found["payee"]] if "payee" in found else candidates("payee", columns)
    if "payer" in found:
        payees = [name for name in payees if name != found["payer"]]
    if "payee" in found:
        payers = [name for name in payers if name != found["payee"]]
    pairs = [(payer, payee) for payer in payers for payee in payees if _is_pair(payer, payee)]
    if len(pairs) == 1:
        return {"payer": pairs[0][0], "payee": pairs[0][1]}
    if len(payers) == 1 and len(payees) == 1:
        return {"payer": payers[0], "payee": payees[0]}
    listing = ", ".join(columns)
    problems = []
    for role, names in (("payer", payers), ("payee", payees)):
        if not names:
            problems.append(f"no column is known to be the {role}")
        elif len(names) > 1:
            problems.append(f"{len(names)} columns can be the {role} ({', '.join(names)})")
    raise InputError(
        f"{where}: {' and '.join(problems)}. Say which: --payer COLUMN --payee COLUMN. All columns: {listing}"
    )


_AFFIXES = sorted({affix for affix in _SUFFIXES if affix}, key=len, reverse=True)


def _readings(name: str, side: int) -> set[tuple[int, str, bool]]:
    """Return the ways to read a plain name: (pair, affix, affix in front)."""
    readings = set()
    for number, pair in enumerate(_PAIRS):
        word = pair[side]
        if name.startswith(word) and (name[len(word) :] in _SUFFIXES):
            readings.add((number, name[len(word) :], False))
        elif name.endswith(word) and (name[: -len(word)] in _SUFFIXES):
            readings.add((number, name[: -len(word)], True))
    return readings


def _is_pair(payer: str, payee: str) -> bool:
    """Tell whether two columns are the two ends of one thing: from_account and to_account, but not from_bank."""
    return bool(_readings(plain_name(payer), 0) & _readings(plain_name(payee), 1))
