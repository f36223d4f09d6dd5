"""The .cu files under ThreadSanitizer and AddressSanitizer: planted bugs are found at their line, our kernels have none."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from ouroflow.runtime.launch import programs
from simt import watch
from simt.host import HERE

pytestmark = pytest.mark.sanitize

PLANTED = [(sanitizer, bug.__name__) for sanitizer, bugs in watch.BUGS.items() for bug in bugs]
QUIET = [(sanitizer, scenario.__name__) for sanitizer in watch.SANITIZERS for scenario in (*watch.RIGHT, *watch.TWINS)]


def marked_lines(bug: str) -> set[int]:
    """Lines of seeded.cu that carry the mark of a bug."""
    lines = (HERE / "seeded.cu").read_text(encoding="utf-8").splitlines()
    return {number for number, line in enumerate(lines, start=1) if re.search(rf"// BUG {bug}\b", line)}


@dataclass(frozen=True)
class Reports:
    """What each sanitizer said in each scenario, and which kernels it saw where it should keep quiet."""

    said: dict[tuple[str, str], str]
    launched: dict[str, set[str]]


@pytest.fixture(scope="module")
def reports() -> Reports:
    """Run everything, two processes at a time; a bug in memory ends its process."""
    quiet = [(sanitizer, [name for kind, name in QUIET if kind == sanitizer]) for sanitizer in watch.SANITIZERS]
    planted = [("thread", [name for sanitizer, name in PLANTED if sanitizer == "thread"])]
    planted += [(sanitizer, [name]) for sanitizer, name in PLANTED if sanitizer == "address"]
    jobs = quiet + planted
    with ThreadPoolExecutor(2) as pool:
        watched = list(pool.map(lambda job: watch.watch(*job), jobs))
    said = {(job[0], name): text for job, one in zip(jobs, watched, strict=True) for name, text in one.said.items()}
    return Reports(said, {job[0]: one.launched for job, one in zip(quiet, watched, strict=False)})


@pytest.mark.parametrize(("sanitizer", "bug"), PLANTED)
def test_a_planted_bug_is_found_at_its_line(reports: Reports, sanitizer: str, bug: str) -> None:
    report = reports.said[sanitizer, bug]
    found = {int(number) for number in re.findall(r"seeded\.cu:(\d+)", report)}
    assert found and found <= marked_lines(bug), report


@pytest.mark.parametrize(("sanitizer", "scenario"), QUIET)
def test_a_right_kernel_gives_no_report(reports: Reports, sanitizer: str, scenario: str) -> None:
    assert reports.said.get((sanitizer, scenario), "not run: one before it ended the process") == ""


@pytest.mark.parametrize("sanitizer", watch.SANITIZERS)
def test_every_kernel_is_watched(reports: Reports, sanitizer: str) -> None:
    kernels = {kernel.name for program in programs() for kernel in program.kernels}
    assert kernels - reports.launched[sanitizer] == set()


def test_every_planted_bug_of_the_file_is_looked_for() -> None:
    planted = set(re.findall(r"// BUG (\w+)", (HERE / "seeded.cu").read_text(encoding="utf-8")))
    assert planted == {bug for _, bug in PLANTED} | {scenario.__name__ for scenario in watch.FATAL}
