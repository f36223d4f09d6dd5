"""Parquet to FlowGraph: 10 million payments of a million companies, beside Polars and DuckDB.

Every contestant runs in a process of its own: once to warm up (JIT, page cache), then `--repeats` times in turns with
the others' processes, so that a busy machine disturbs all alike. Peak memory is the VmHWM of its process.

``polars group-by`` and ``duckdb group-by`` sum the pairs and stop there: no ids, no order, no reverse. ``... with ids``
also number the companies and sum by number. ouroflow checks every row, numbers, sums, and orders the flows both ways.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from harness import write_result

KINDS = ("short", "long", "int")


def generate(path: Path, payments: int, companies: int, kind: str, seed: int = 0) -> None:
    """Write payments with Zipf-like activity (exponent 0.8) and lognormal amounts in whole cents, as float64."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(seed)
    activity = np.cumsum(np.arange(1, companies + 1) ** -0.8)
    activity /= activity[-1]
    columns = {}
    numbers = np.arange(companies) * 1_234_567 % 10_000_000_019
    for column in ("payer", "payee"):
        who = rng.permutation(companies)[np.searchsorted(activity, rng.random(payments))]
        if kind == "int":
            columns[column] = pa.array(who)
        else:
            names = [f"C{number:010d}" if kind == "short" else f"{number:064x}" for number in numbers.tolist()]
            columns[column] = pa.array(names).take(pa.array(who))
    columns["amount"] = pa.array(np.round(rng.lognormal(6, 1.5, payments), 2))
    pq.write_table(pa.table(columns), path)


def ouroflow(path: str) -> int:
    """Read with the product: every row checked and accounted for, flows in both orders."""
    from ouroflow import read_ledger

    return int(read_ledger(path).graph().flows)


def polars_group_by(path: str) -> int:
    """Sum the pairs."""
    import polars as pl

    sums = [pl.col("amount").sum(), pl.len()]
    return pl.scan_parquet(path).group_by(["payer", "payee"]).agg(sums).collect().height


def polars_with_ids(path: str) -> int:
    """Number the companies through one categorical, then sum by number."""
    import polars as pl

    frame = pl.read_parquet(path)
    names = pl.concat([frame["payer"], frame["payee"].alias("payer")]).unique()
    sums = [pl.col("amount").sum(), pl.len()]
    if names.dtype != pl.String:
        ids = pl.LazyFrame({"name": names}).with_row_index("id")
        payer, payee = ids.rename({"name": "payer", "id": "i"}), ids.rename({"name": "payee", "id": "j"})
        numbered = frame.lazy().join(payer, on="payer").join(payee, on="payee")
        return numbered.group_by(["i", "j"]).agg(sums).collect().height
    known = pl.Enum(names)
    numbered = frame.lazy().select(
        pl.col("payer").cast(known).to_physical(), pl.col("payee").cast(known).to_physical(), "amount"
    )
    return numbered.group_by(["payer", "payee"]).agg(sums).collect().height


def duckdb_group_by(path: str) -> int:
    """Sum the pairs."""
    return _duckdb(
        f"create temp table flows as select payer, payee, sum(amount) a, count(*) c from '{path}' group by all",
    )


def duckdb_with_ids(path: str) -> int:
    """Number the companies by row number, join twice, then sum by number."""
    return _duckdb(
        "create temp table ids as select name, (row_number() over () - 1)::int as id from "
        f"(select payer as name from '{path}' union select payee from '{path}')",
        f"""create temp table flows as select i.id as i, j.id as j, sum(amount) a, count(*) c from '{path}' p
        join ids i on p.payer = i.name join ids j on p.payee = j.name group by all""",
    )


def _duckdb(*statements: str) -> int:
    import duckdb

    with duckdb.connect() as connection:
        for statement in statements:
            connection.execute(statement)
        return int(connection.execute("select count(*) from flows").fetchall()[0][0])


CONTESTANTS: dict[str, Callable[[str], int]] = {
    "ouroflow": ouroflow,
    "polars group-by": polars_group_by,
    "polars with ids": polars_with_ids,
    "duckdb group-by": duckdb_group_by,
    "duckdb with ids": duckdb_with_ids,
}


def serve(name: str, path: str) -> None:
    """Run one contestant once for every line on stdin, and answer each with a line of JSON."""
    for _ in sys.stdin:
        start = time.perf_counter()
        flows = CONTESTANTS[name](path)
        seconds = time.perf_counter() - start
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
        print(json.dumps({"seconds": seconds, "flows": flows, "peak_bytes": peak}), flush=True)


def race(path: Path, names: list[str], repeats: int) -> dict[str, dict[str, Any]]:
    """Run the contestants in turns; the first turn is not counted."""
    children = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--serve", name, "--file", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in names
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(repeats + 1):
        for name, child in children.items():
            assert child.stdin is not None
            assert child.stdout is not None
            print("go", file=child.stdin, flush=True)
            answer = child.stdout.readline()
            if not answer:
                raise SystemExit(f"{name} failed: see above")
            if turn:
                runs[name].append(json.loads(answer))
    for child in children.values():
        child.communicate()
    return {
        name: {
            "seconds": statistics.median(run["seconds"] for run in answers),
            "all_seconds": [round(run["seconds"], 4) for run in answers],
            "peak_bytes": max(run["peak_bytes"] for run in answers),
            "flows": answers[-1]["flows"],
        }
        for name, answers in runs.items()
    }


def main() -> None:
    """Race, print a table with the ratios, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--payments", type=int, default=10_000_000)
    parser.add_argument("--companies", type=int, default=1_000_000)
    parser.add_argument(
        "--ids", choices=KINDS, default="short", help="short: C0001234567; long: 64 characters; int: int64"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS))
    parser.add_argument("--serve", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.file)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "payments.parquet"
        generate(path, arguments.payments, arguments.companies, arguments.ids)
        results = race(path, arguments.only, arguments.repeats)
        file_bytes = path.stat().st_size
    ours = results.get("ouroflow")
    print(f"{'':18}{'seconds':>9}{'peak GB':>9}{'ours / it':>11}{'memory':>8}")
    for name, result in results.items():
        line = f"{name:18}{result['seconds']:9.3f}{result['peak_bytes'] / 1e9:9.2f}"
        if ours:
            result["ours_over_it"] = ours["seconds"] / result["seconds"]
            result["our_memory_over_its"] = ours["peak_bytes"] / result["peak_bytes"]
            line += f"{result['ours_over_it']:11.2f}{result['our_memory_over_its']:8.2f}"
        print(line)
    setting = {key: getattr(arguments, key) for key in ("payments", "companies", "ids", "repeats")}
    write_result("ledger", {"setting": {**setting, "file_bytes": file_bytes}, "results": results})


if __name__ == "__main__":
    main()
