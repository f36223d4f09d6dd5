"""Lanes: each test belongs to one; a lane that cannot run here says why, and ``--require-lane`` turns that into a failure."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from ouroflow.doctor import lane_obstacles

LANES = ("cpu", "host", "sanitize", "nvrtc", "contract", "gpu", "shared")
REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("OUROFLOW_SHARED", REPOSITORY.parent / "shared"))

# JIT compilation makes the first example slow on any machine; a deadline would only measure that. Seeds are printed on failure.
settings.register_profile("ouroflow", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ouroflow")


@functools.cache
def missing(lane: str) -> str | None:
    """Return why a lane cannot run on this machine, or None when it can."""
    if (obstacle := lane_obstacles().get(lane)) is not None:
        return obstacle
    if lane == "sanitize":
        from simt import watch

        return watch.unusable()
    if lane == "shared" and not (SHARED / "datasets").is_dir():
        return "the project's shared folder does not stand beside the checkout"
    return None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-lane",
        action="append",
        default=[],
        choices=LANES,
        help="fail instead of skipping when this lane cannot run here (may be given more than once)",
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    for lane in LANES:
        if item.get_closest_marker(lane) is None:
            continue
        why = missing(lane)
        if why is None:
            continue
        if lane in item.config.getoption("--require-lane"):
            pytest.fail(f"lane {lane} is required, and {why}", pytrace=False)
        pytest.skip(f"lane {lane}: {why}")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fail when a required lane holds no test at all: an empty lane proves nothing."""
    required = set(session.config.getoption("--require-lane")) - {"cpu"}
    present = {lane for lane in required for item in session.items if item.get_closest_marker(lane)}
    if session.items and (empty := sorted(required - present)) and not session.config.getoption("keyword"):
        raise pytest.UsageError(f"lanes required but without a single test: {', '.join(empty)}")


@pytest.fixture
def shared() -> Path:
    """Return the shared folder; tests that use it carry the mark ``shared``."""
    return SHARED
