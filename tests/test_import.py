"""``import ouroflow`` is light, and everything that it promises is there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ouroflow

pytestmark = pytest.mark.cpu

HEAVY = (
    "numpy",
    "numba",
    "scipy",
    "pyarrow",
    "pandas",
    "polars",
    "fsspec",
    "rich",
    "yaml",
    "cupy",
    "cudf",
    "cugraph",
    "dask",
)


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_import_pulls_in_nothing_heavy() -> None:
    loaded = run("import sys, ouroflow; print(' '.join(sorted({m.partition('.')[0] for m in sys.modules})))").split()
    assert "ouroflow" in loaded
    assert not set(loaded) & set(HEAVY)


def test_import_takes_less_than_a_fifth_of_a_second() -> None:
    code = "import time; t = time.perf_counter(); import ouroflow; print(time.perf_counter() - t)"
    assert min(float(run(code)) for _ in range(5)) < 0.2


def test_help_needs_nothing_heavy_either() -> None:
    code = (
        "import sys, ouroflow.cli as c; c.build_parser(); print(' '.join({m.partition('.')[0] for m in sys.modules}))"
    )
    assert not set(run(code).split()) & set(HEAVY)


@pytest.mark.parametrize("name", ouroflow.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(ouroflow, name).__doc__


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'circle'"):
        ouroflow.circle  # noqa: B018
