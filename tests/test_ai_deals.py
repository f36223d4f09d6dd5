"""The bundled data sets ai-deals and ai-deals-annual are what their cards and notes say."""

from __future__ import annotations

import csv
import datetime
import hashlib
import re
from collections import Counter
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

DATASETS = Path(__file__).resolve().parents[1] / "datasets"
NAMES = ("ai-deals", "ai-deals-annual")
COUNTED = {"completed", "announced", "reported", "up_to", "estimate"}
NOT_COUNTED = {"overlap", "intent", "contingent", "non_cash", "undisclosed"}
CENT = Decimal("0.01")

Row = dict[str, str]


def read(dataset: str, file: str = "deals.csv") -> list[Row]:
    with (DATASETS / dataset / file).open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle, strict=True))
    assert all(None not in row and None not in row.values() for row in rows), "ragged row"
    return rows


def card(dataset: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DATASETS / dataset / "card.yaml").read_text(encoding="utf-8"))
    return loaded


def notes() -> str:
    return (DATASETS / "ai-deals" / "NOTES.md").read_text(encoding="utf-8")


def counted(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["status"] in COUNTED]


def bounds(row: Row) -> tuple[Decimal, Decimal, Decimal]:
    """Low, amount, high; an empty bound is the amount."""
    amount = Decimal(row["amount"])
    return Decimal(row["amount_low"] or amount), amount, Decimal(row["amount_high"] or amount)


def test_the_folders_hold_data_only() -> None:
    for dataset in NAMES:
        assert {path.suffix for path in (DATASETS / dataset).rglob("*") if path.is_file()} <= {".csv", ".yaml", ".md"}


@pytest.mark.parametrize("dataset", NAMES)
def test_card_agrees_with_the_files(dataset: str) -> None:
    described = card(dataset)
    assert described["name"] == dataset
    listed = {file["name"]: file for file in described["files"]}
    assert set(listed) == {path.name for path in (DATASETS / dataset).glob("*.csv")}
    for name, file in listed.items():
        content = (DATASETS / dataset / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        assert len(content) == file["bytes"]
        assert len(read(dataset, name)) == file["rows"]
        assert b"\r" not in content and not content.startswith(b"\xef\xbb\xbf")


@pytest.mark.parametrize("dataset", NAMES)
def test_card_describes_every_column_role_and_status(dataset: str) -> None:
    described, rows = card(dataset), read(dataset)
    columns = [column["name"] for column in described["columns"]]
    assert columns == list(rows[0])
    assert all({"type", "unit", "meaning"} < set(column) for column in described["columns"])
    assert set(described["roles"].values()) <= set(columns)
    assert {"payer", "payee", "amount", "time", "id", "status", "low", "high"} <= set(described["roles"])
    assert set(described["status_default"]) == COUNTED
    expected = COUNTED | NOT_COUNTED | ({"no_term"} if dataset.endswith("annual") else set())
    assert set(described["status"]) == expected
    assert {row["status"] for row in rows} <= expected
    assert (described["currency"], described["decimals"], described["licence"]) == ("USD", 2, "Apache-2.0")
    assert isinstance(described["as_of"], datetime.date)


def test_every_source_resolves_and_is_used() -> None:
    sources = read("ai-deals", "sources.csv")
    ids = [source["source_id"] for source in sources]
    assert len(ids) == len(set(ids))
    used: set[str] = set()
    for row in read("ai-deals"):
        named = row["source_ids"].split(";")
        assert len(named) == len(set(named)), row["deal_id"]
        used.update(named)
    assert used == set(ids)
    for source in sources:
        assert source["publisher"] and source["title"]
        assert re.fullmatch(r"https?://\S+", source["url"])
        if source["published_on"]:
            datetime.date.fromisoformat(source["published_on"])


@pytest.mark.parametrize("dataset", NAMES)
def test_rows_are_well_formed(dataset: str) -> None:
    rows, as_of = read(dataset), card(dataset)["as_of"]
    assert len({row["deal_id"] for row in rows}) == len(rows)
    for row in rows:
        assert all(value == value.strip() and not re.search(r"[\r\n\t]|\s{2}", value) for value in row.values())
        assert row["payer"] != row["payee"]
        assert row["kind"] in {"equity", "chips", "cloud", "capacity_lease", "licence", "backstop"}
        assert row["stage"] in COUNTED
        assert row["status"] not in COUNTED or row["status"] == row["stage"]
        assert row["open_end"] in {"", "high"}
        day = datetime.date.fromisoformat(row["announced_on"])
        assert day <= as_of
        assert row["date_precision"] == ("month" if day.day == 1 else "day"), row["deal_id"]
        assert not row["years"] or Decimal(row["years"]) > 0
        assert row["note"] and row["source_ids"]


@pytest.mark.parametrize("dataset", NAMES)
def test_amounts_are_exact_and_ordered(dataset: str) -> None:
    for row in read(dataset):
        for column in ("amount", "amount_low", "amount_high"):
            assert not row[column] or re.fullmatch(r"\d+(\.\d{1,2})?", row[column]), (row["deal_id"], column)
        if row["status"] in {"undisclosed", "no_term"}:
            assert not (row["amount"] or row["amount_low"] or row["amount_high"])
        elif row["amount"]:
            low, amount, high = bounds(row)
            assert 0 <= low <= amount <= high and amount > 0, row["deal_id"]
            assert not (row["open_end"] and row["amount_high"]), "an open end has no high"
        else:
            assert row["status"] not in COUNTED and not (row["amount_low"] or row["amount_high"])


def test_a_ceiling_promises_nothing_below_it() -> None:
    for row in read("ai-deals"):
        if row["status"] == "up_to":
            low, amount, high = bounds(row)
            assert low == 0 and high == amount, row["deal_id"]


def test_names_are_consistent() -> None:
    names = {name for row in read("ai-deals") for name in (row["payer"], row["payee"])}
    folded = Counter(re.sub(r"\W", "", name).casefold() for name in names)
    assert max(folded.values()) == 1, "one company under two spellings"
    for row in read("ai-deals"):
        payer, payee = (re.sub(r"\W", "", row[side]).casefold() for side in ("payer", "payee"))
        assert row["deal_id"].startswith(payer + "-"), "the key begins with the payer"
        assert payee in row["deal_id"] or row["kind"] != "equity" or row["deal_id"] == "nvidia-xai"


def test_nothing_is_counted_twice() -> None:
    rows = {row["deal_id"]: row for row in read("ai-deals")}
    reasons = dict(re.findall(rf"^\| ([a-z0-9-]+) \| ({'|'.join(sorted(NOT_COUNTED))}) \| \S", notes(), re.M))
    assert {key: row["status"] for key, row in rows.items() if row["status"] not in COUNTED} == reasons
    assert rows["openai-plan-aggregate"]["status"] == rows["openai-nvidia-10gw"]["status"] == "overlap"
    # The plan and the part of it in the table cannot both count, nor the racks and the million TPUs they fill.
    assert rows["anthropic-broadcom-tpu"]["status"] in COUNTED
    assert rows["anthropic-google-tpu"]["status"] == "overlap"
    # Three CoreWeave contracts, one of them the last, add up to the total that the last one announced.
    assert sum(Decimal(rows[f"openai-coreweave-{number}"]["amount"]) for number in (1, 2, 3)) == 22_400
    assert sum(Decimal(rows[f"amazon-anthropic-{year}"]["amount"]) for year in (2023, 2024)) == 8_000
    counting = counted(list(rows.values()))
    for row in counting:
        assert row["kind"] != "backstop" and "aggregate" not in row["payee"]
        assert "warrant" not in row["deal_id"] and "stock" not in row["deal_id"]
    columns = ("payer", "payee", "kind", "amount", "announced_on")
    signature = Counter(tuple(row[column] for column in columns) for row in counting)
    assert max(signature.values()) == 1


def test_the_loop_of_the_founding_case_counts() -> None:
    flows = {(row["payer"], row["payee"]) for row in counted(read("ai-deals"))}
    assert flows >= {
        ("NVIDIA", "Anthropic"),
        ("Microsoft", "Anthropic"),
        ("Anthropic", "Microsoft"),
        ("Microsoft", "NVIDIA"),
    }


def test_annual_view_is_derived_by_its_rule() -> None:
    whole, annual = read("ai-deals"), read("ai-deals-annual")
    derived = card("ai-deals-annual")["derived_from"]
    source = DATASETS / derived["dataset"] / derived["file"]
    assert hashlib.sha256(source.read_bytes()).hexdigest() == derived["sha256"]
    assert len(whole) == len(annual)
    for row, yearly in zip(whole, annual, strict=True):
        expected = dict(row)
        for column in ("amount", "amount_low", "amount_high"):
            expected[column] = ""
            if row[column] and row["years"]:
                value = (Decimal(row[column]) / Decimal(row["years"])).quantize(CENT, ROUND_HALF_EVEN)
                expected[column] = format(value.normalize(), "f")
        if row["status"] in COUNTED and not row["years"]:
            expected["status"] = "no_term"
        assert yearly == expected


def test_single_payments_have_no_term() -> None:
    assert not [row["deal_id"] for row in read("ai-deals") if row["kind"] == "equity" and row["years"]]


def test_loop_in_the_annual_view_is_what_the_notes_say() -> None:
    rows = read("ai-deals-annual")
    flows = {(row["payer"], row["payee"]) for row in counted(rows)}
    assert flows >= {
        ("Microsoft", "Anthropic"),
        ("Microsoft", "NVIDIA"),
        ("NVIDIA", "CoreWeave"),
        ("CoreWeave", "NVIDIA"),
    }
    assert not flows & {("NVIDIA", "Anthropic"), ("Anthropic", "Microsoft")}
    without = {(row["payer"], row["payee"]) for row in rows if row["status"] == "no_term"}
    assert without >= {("NVIDIA", "Anthropic"), ("Microsoft", "Anthropic"), ("Anthropic", "Microsoft")}


def test_totals_by_status_are_what_the_notes_say() -> None:
    tables = re.findall(r"\| status \| rows \|.*?(?=\n\n)", notes(), re.S)
    assert len(tables) == len(NAMES)
    for dataset, table in zip(NAMES, tables, strict=True):
        stated = {
            cells[0]: (int(cells[1]), *map(Decimal, cells[2:]))
            for cells in (line.strip("| ").split(" | ") for line in table.splitlines()[2:])
        }
        groups: dict[str, list[Row]] = {}
        for row in read(dataset):
            groups.setdefault(row["status"], []).append(row)
        groups["counted by default"] = counted(read(dataset))
        assert stated == {
            status: (
                len(rows),
                *(sum((bounds(row)[part] for row in rows if row["amount"]), Decimal(0)) for part in (1, 0, 2)),
            )
            for status, rows in groups.items()
        }
