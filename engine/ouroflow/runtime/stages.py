"""The stages of a run: timed, their peak memory read from the system, shown as a bar on a terminal and as lines elsewhere."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@dataclass(slots=True)
class Stage:
    """One stage of a run.

    Attributes
    ----------
    stage : str
        ledger, graph, components, roundtrip, circulation, cycles or report.
    seconds : float
        Wall-clock time.
    peak_bytes : int
        Largest resident memory of the process while the stage ran.
    """

    stage: str
    seconds: float = 0.0
    peak_bytes: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the form of run.json."""
        return {"stage": self.stage, "seconds": round(self.seconds, 6), "peak_bytes": self.peak_bytes}


@dataclass
class Stages:
    """Runs stages one after another and keeps what they cost.

    Parameters
    ----------
    quiet : bool
        Say nothing on stderr.
    total : int
        Number of stages expected, for the bar.
    """

    quiet: bool = False
    total: int = 5
    done: list[Stage] = field(default_factory=list)
    _bar: Progress | None = None
    _task: TaskID | None = None

    def __post_init__(self) -> None:
        """Be quiet where there is no stderr to speak to."""
        self.quiet = self.quiet or sys.stderr is None

    @contextmanager
    def stage(self, name: str, doing: str) -> Iterator[None]:
        """Time one stage; `doing` says in a few words what happens in it."""
        self._show(name, doing)
        _reset_peak()
        start = time.perf_counter()
        yield
        stage = Stage(name, time.perf_counter() - start, _peak_bytes())
        self.done.append(stage)
        self._advance(stage)

    def note(self, text: str) -> None:
        """Tell the user something about the data or a choice that was made."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.console.print(f"  {text}", markup=False, highlight=False, soft_wrap=True)
        else:
            print(f"ouroflow: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show(self, name: str, doing: str) -> None:
        if self.quiet:
            return
        if self._bar is None and sys.stderr.isatty():
            self._bar, self._task = _new_bar(self.total)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=f"{name}: {doing}")
        else:
            print(f"ouroflow: {name}: {doing}", file=sys.stderr, flush=True)

    def _advance(self, stage: Stage) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=len(self.done))
        elif not self.quiet:
            print(
                f"ouroflow: {stage.stage}: done in {stage.seconds:.2f} s, peak {stage.peak_bytes / 2**20:,.0f} MiB",
                file=sys.stderr,
                flush=True,
            )


def _new_bar(total: int) -> tuple[Progress, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    bar.start()
    return bar, bar.add_task("", total=total)


def _reset_peak() -> None:
    # Linux resets the high-water mark of resident memory when 5 is written here; elsewhere that of the whole run is reported.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_bytes() -> int:
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
