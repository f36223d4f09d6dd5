"""The main job from the command line: what it prints, what it leaves behind, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

import ouroflow
from ouroflow.cli import main

pytestmark = pytest.mark.cpu

FILES = {
    "run.json",
    "summary.json",
    "companies.parquet",
    "flows.parquet",
    "components.parquet",
    "certificate/components.parquet",
    "certificate/order.parquet",
}
SUMMARY_KEYS = {
    "companies",
    "flows",
    "transactions",
    "total",
    "components",
    "round_trip_fraction",
    "finn_cycling_index",
    "max_circulation_fraction",
    "netting_fraction",
    "bilateral_fraction",
    "intra_component_fraction",
    "cycles",
}


def ouroflow_process(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ouroflow.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)  # type: ignore[call-overload]


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def payments(tmp_path: Path) -> Path:
    path = tmp_path / "payments.csv"
    path.write_text("payer,payee,amount\na,b,2\nb,c,1\nc,a,1\n", encoding="utf-8")
    return path


# --- the main job on the bundled data -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ai_deals(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("ai") / "out"
    done = ouroflow_process("analyze", "ai-deals", "-o", str(out))
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_the_answer_names_the_companies_and_through_whom_their_money_returns(ai_deals: tuple[Path, str]) -> None:
    _, answer = ai_deals
    for name in ("NVIDIA", "OpenAI", "Microsoft", "Anthropic"):
        assert name in answer
    assert "comes back to its payer" in answer
    assert "estimate" in answer, "the answer must say how much of it rests on estimates"
    microsoft = next(line for line in answer.splitlines() if line.startswith("Microsoft"))
    assert "OpenAI" in microsoft or "Anthropic" in microsoft


def test_out_holds_what_the_design_promises(ai_deals: tuple[Path, str]) -> None:
    out, _ = ai_deals
    assert files_of(out) >= FILES
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert set(summary) == SUMMARY_KEYS
    assert set(summary["round_trip_fraction"]) == {"value", "low", "high", "method"}
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    rows = run["rows"]
    assert rows["read"] == rows["used"] + rows["self_payments"] + sum(rows["rejected"].values())
    assert [stage["stage"] for stage in run["stages"]] == ["ledger", "graph", "components", "roundtrip", "report"]
    assert all(stage["seconds"] >= 0 and stage["peak_bytes"] > 0 for stage in run["stages"])
    assert re.fullmatch("[0-9a-f]{64}", run["digest"])
    assert re.fullmatch("[0-9a-f]{64}", run["inputs"][0]["sha256"])


def test_the_loop_of_the_founding_case_is_on_closed_loops(ai_deals: tuple[Path, str]) -> None:
    out, _ = ai_deals
    flows = pq.read_table(out / "flows.parquet").to_pylist()
    back = {(flow["payer"], flow["payee"]): flow["return_fraction"] for flow in flows}
    for pair in [
        ("Microsoft", "Anthropic"),
        ("NVIDIA", "Anthropic"),
        ("Anthropic", "Microsoft"),
        ("Microsoft", "NVIDIA"),
    ]:
        assert back[pair] > 0


def test_verify_passes_and_trace_explains(ai_deals: tuple[Path, str]) -> None:
    out, _ = ai_deals
    assert ouroflow_process("verify", str(out)).returncode == 0
    traced = ouroflow_process("trace", str(out), "NVIDIA")
    assert traced.returncode == 0
    assert "Anthropic" in traced.stdout


def test_intervals_over_announced_ranges_hold_the_value(ai_deals: tuple[Path, str]) -> None:
    out, _ = ai_deals
    fraction = json.loads((out / "summary.json").read_text(encoding="utf-8"))["round_trip_fraction"]
    assert fraction["low"] < fraction["value"] < fraction["high"]
    companies = {row["company"]: row for row in pq.read_table(out / "companies.parquet").to_pylist()}
    nvidia = companies["NVIDIA"]
    assert nvidia["round_trip_low"] < nvidia["round_trip"] < nvidia["round_trip_high"]


def test_the_annual_view_runs_too(tmp_path: Path) -> None:
    done = ouroflow_process("analyze", "ai-deals-annual", "-o", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "no_term" in done.stdout or "no term" in done.stdout, "what has no known term is named, not dropped"


# --- real data sets -------------------------------------------------------------------------------------------------------

REAL = {
    "amlsim_20k": "20K_cycle200_transactions.csv",
    "wiki_vote": "wiki-Vote.txt",
    "soc_slashdot0902": "soc-Slashdot0902.txt.gz",
}


@pytest.mark.shared
@pytest.mark.parametrize("name", REAL)
def test_real_data_sets_have_scipys_components_and_verify(name: str, tmp_path: Path, shared: Path) -> None:
    source, out = shared / "datasets" / name / REAL[name], tmp_path / "out"
    done = ouroflow_process("analyze", str(source), "-o", str(out), "--quiet")
    assert done.returncode == 0, done.stderr
    companies, flows = pq.read_table(out / "companies.parquet"), pq.read_table(out / "flows.parquet")
    names = companies["company"].combine_chunks()
    ends = [pa.compute.index_in(flows[side], value_set=names).to_numpy() for side in ("payer", "payee")]
    matrix = csr_matrix((np.ones(len(flows)), ends), shape=(len(names), len(names)))
    count, labels = connected_components(matrix, directed=True, connection="strong")
    ours = companies["component"].to_numpy()
    assert ours.max() + 1 == count == len(set(zip(labels.tolist(), ours.tolist(), strict=True)))
    assert ouroflow_process("verify", str(out)).returncode == 0


# --- outputs are whole or not there ---------------------------------------------------------------------------------------


def test_an_older_result_is_replaced_and_nothing_else_is(payments: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["analyze", str(payments), "-o", str(out), "--quiet"]) == 0
    assert main(["analyze", str(payments), "-o", str(out), "--quiet"]) == 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    assert main(["analyze", str(payments), "-o", str(precious), "--quiet"]) == 2
    assert files_of(precious) == {"thesis.txt"}


def test_a_full_disk_leaves_the_older_result_untouched(payments: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["analyze", str(payments), "-o", str(out), "--quiet"]) == 0
    before = {name: (out / name).read_bytes() for name in files_of(out)}

    def small_files_only() -> None:
        # Python ignores SIGXFSZ, so a write past the limit fails with "File too large", as it would on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))

    done = ouroflow_process("analyze", str(payments), "-o", str(out), preexec_fn=small_files_only)
    assert done.returncode == 4, done.stderr
    assert "disk is full" in done.stderr and "Traceback" not in done.stderr
    assert {name: (out / name).read_bytes() for name in files_of(out)} == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("after", [0.05, 0.3, 0.6, 0.9, 1.2, 1.5])
def test_a_killed_run_leaves_no_half_result(after: float, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "ouroflow.cli", "analyze", "ai-deals", "-o", str(out), "--quiet"]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(after)
    run.kill()
    run.wait()
    if out.exists():
        assert files_of(out) >= FILES
    assert ouroflow_process("analyze", "ai-deals", "-o", str(out), "--quiet").returncode == 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == [], (
        "leftovers of the killed run go"
    )


def test_interrupting_ends_with_exit_code_five(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    source = tmp_path / "many.parquet"
    ids = rng.integers(0, 300_000, (2, 3_000_000))
    pq.write_table(pa.table({"payer": ids[0], "payee": ids[1], "amount": rng.integers(1, 10**6, 3_000_000)}), source)
    command = [sys.executable, "-m", "ouroflow.cli", "analyze", str(source), "-o", str(tmp_path / "out")]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stderr is not None
    while "graph:" not in run.stderr.readline():
        assert run.poll() is None
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 5, errors
    assert "interrupted" in errors and "Traceback" not in errors
    assert not (tmp_path / "out").exists()


# --- messages and forms ---------------------------------------------------------------------------------------------------


def test_json_goes_to_stdout_and_messages_to_stderr(payments: Path) -> None:
    done = ouroflow_process("analyze", str(payments), "--json")
    assert json.loads(done.stdout)["round_trip_fraction"]["value"] == 0.625
    assert "ledger" in done.stderr
    assert ouroflow_process("analyze", str(payments), "--json", "--quiet").stderr == ""


def test_a_terminal_gets_a_bar_and_a_pipe_gets_lines(payments: Path) -> None:
    lines = ouroflow_process("analyze", str(payments)).stderr
    assert "\x1b[" not in lines and "components: done in" in lines
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "ouroflow.cli", "analyze", str(payments)]
    run = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=theirs, env={**os.environ, "TERM": "xterm-256color"}
    )
    os.close(theirs)
    seen = b""
    while run.poll() is None or select.select([ours], [], [], 0.1)[0]:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                seen += os.read(ours, 65536)
            except OSError:
                break
    os.close(ours)
    assert run.wait(timeout=60) == 0
    assert b"\x1b[" in seen and "━".encode() in seen


def test_hostile_names_do_not_drive_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "hostile.csv"
    names = [
        "=cmd()",
        "<script>alert(1)</script>",
        "\x1b[31mred",
        "가나다 주식회사",
        "🚀 Rocket",
        "[bold]markup[/bold]",
    ]
    rows = "".join(f'"{a}","{b}",5\n' for a, b in zip(names, names[1:] + names[:1], strict=True))
    path.write_text("payer,payee,amount\n" + rows, encoding="utf-8")
    done = ouroflow_process("analyze", str(path), "-o", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout and "\\u001b[31mred" in done.stdout
    assert "가나다 주식회사" in done.stdout and "🚀 Rocket" in done.stdout and "[bold]markup[/bold]" in done.stdout
    stored = pq.read_table(tmp_path / "out" / "companies.parquet")["company"].to_pylist()
    assert sorted(stored) == sorted(names), "tables carry the original identity"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--scc", "cugraph", "--device", "cpu"], 2, "cuGraph works on a GPU"),
        (["--measures", "cycles"], 2, "this version computes"),
        (["--company", "Nobody"], 2, "no such company"),
        (["--hops", "1"], 2, "at least 2"),
        (["--tolerance", "-1"], 2, "tolerance"),
        (["--tolerance", "nan"], 2, "tolerance"),
        (["--top", "-3"], 2, "top"),
        (["--payer", "nowhere"], 3, "nowhere"),
        (["--seed", "-1"], 2, "seed"),
    ],
)
def test_senseless_calls_end_with_a_clear_message(
    arguments: list[str], code: int, message: str, payments: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", str(payments), "--quiet", *arguments]) == code
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_named_companies_are_shown_first(capsys: pytest.CaptureFixture[str], payments: Path) -> None:
    assert main(["analyze", str(payments), "--quiet", "--company", "c"]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.lstrip().startswith("company"))
    assert lines[first + 1].startswith("c ")


def test_datasets_are_listed_with_their_cards(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets"]) == 0
    assert "ai-deals-annual" in capsys.readouterr().out
    assert main(["datasets", "ai-deals"]) == 0
    assert "licence: Apache-2.0" in capsys.readouterr().out
    assert main(["datasets", "ai-feels"]) == 3
    assert "ai-deals" in capsys.readouterr().err


def test_components_alone_leave_the_other_figures_empty(payments: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["analyze", str(payments), "-o", str(out), "--quiet", "--measures", "components"]) == 0
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["round_trip_fraction"] is None and summary["netting_fraction"]["value"] == 0.75
    assert pq.read_table(out / "companies.parquet")["round_trip"].null_count == 3
    assert main(["verify", str(out)]) == 0


def test_the_digest_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    table = pa.table(
        {"payer": rng.integers(0, 40, 300), "payee": rng.integers(0, 40, 300), "amount": rng.integers(1, 99, 300)}
    )
    digests = []
    for k in range(3):
        shuffled = table.take(pa.array(rng.permutation(300)))
        ouroflow.analyze(shuffled, out=tmp_path / str(k))
        digests.append(json.loads((tmp_path / str(k) / "run.json").read_text(encoding="utf-8"))["digest"])
    assert len(set(digests)) == 1


def test_python_gives_back_the_family_it_was_given() -> None:
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    columns = {"payer": ["a", "b"], "payee": ["b", "a"], "amount": [5, 2]}
    assert isinstance(ouroflow.analyze(pandas.DataFrame(columns)).companies, pandas.DataFrame)
    assert isinstance(ouroflow.analyze(polars.DataFrame(columns)).companies, polars.DataFrame)
    assert isinstance(ouroflow.analyze(pa.table(columns)).companies, pa.Table)


def test_the_digest_of_exact_results_does_not_depend_on_the_order_of_rows_where_components_tie(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    pairs = [(f"firm {a}", f"firm {a ^ 1}") for a in range(40)] + [(f"lone {a}", f"firm {a}") for a in range(9)]
    table = pa.table(
        {"payer": [a for a, _ in pairs], "payee": [b for _, b in pairs], "amount": rng.integers(1, 99, len(pairs))}
    )
    digests = set()
    for k in range(4):
        ouroflow.analyze(table.take(pa.array(rng.permutation(len(table)))), out=tmp_path / str(k))
        digests.add(json.loads((tmp_path / str(k) / "run.json").read_text(encoding="utf-8"))["digest"])
    assert len(digests) == 1


def test_an_interrupt_between_the_renames_puts_the_older_result_back(
    payments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    analysis = ouroflow.analyze(payments, out=out)
    before = (out / "run.json").read_bytes()
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if ".partial-" in path.name:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        analysis.save(out)
    assert (out / "run.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_link_to_a_result_is_followed(payments: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert main(["analyze", str(payments), "-o", str(tmp_path / "link"), "--quiet"]) == 0
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "run.json").is_file()


def test_a_result_inside_the_input_folder_is_not_read_as_payments(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("payer,payee,amount\na,b,2\nb,a,1\n", encoding="utf-8")
    for _ in range(2):
        assert main(["analyze", str(tmp_path / "in"), "-o", str(tmp_path / "in" / "out"), "--quiet"]) == 0
    assert main(["analyze", str(tmp_path / "in" / "out"), "--quiet"]) == 3


def test_files_of_the_user_in_a_result_folder_are_not_lost(payments: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["analyze", str(payments), "-o", str(out), "--quiet"]) == 0
    (out / "notes.txt").write_text("mine")
    assert main(["analyze", str(payments), "-o", str(out), "--quiet"]) == 2
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["ai-deals", "ai-deals-annual"])
def test_bundled_results_verify_and_any_altered_number_does_not(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["analyze", name, "-o", str(out), "--quiet"]) == 0
    assert main(["verify", str(out)]) == 0
    table = pq.read_table(out / "companies.parquet")
    column = table["round_trip"].to_numpy().copy()
    column[int(np.argmax(column))] *= 1 + 1e-9
    at = table.column_names.index("round_trip")
    pq.write_table(table.set_column(at, "round_trip", pa.array(column)), out / "companies.parquet")
    assert main(["verify", str(out)]) == 6


def test_announced_ranges_that_are_not_followed_are_said_so(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["analyze", "ai-deals", "--hops", "3", "-o", str(out), "--quiet"]) == 0
    figure = json.loads((out / "summary.json").read_text(encoding="utf-8"))["round_trip_fraction"]
    assert "announced ranges not followed" in figure["method"]


def test_names_that_the_terminal_cannot_show_do_not_end_the_run(tmp_path: Path) -> None:
    path = tmp_path / "korean.csv"
    path.write_text("payer,payee,amount\n한국,서울,2\n서울,한국,1\n", encoding="utf-8")
    done = ouroflow_process("analyze", str(path), env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and "\\ud55c" in done.stdout


def test_a_full_disk_behind_stdout_is_no_internal_error(payments: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "ouroflow", "analyze", str(payments), "--quiet"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 4 and "full" in done.stderr and "internal" not in done.stderr


def test_optional_tables_are_recorded_with_their_checksums(payments: Path, tmp_path: Path) -> None:
    (tmp_path / "entities.csv").write_text("company,parent\nb,a\n", encoding="utf-8")
    out, entities = tmp_path / "out", str(tmp_path / "entities.csv")
    assert main(["analyze", str(payments), "--entities", entities, "-o", str(out), "--quiet"]) == 0
    recorded = json.loads((out / "run.json").read_text(encoding="utf-8"))["optional_tables"]
    assert recorded["entities"]["path"] == entities
    assert re.fullmatch("[0-9a-f]{64}", recorded["entities"]["sha256"])
