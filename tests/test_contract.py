"""Every name and keyword of CuPy and RAPIDS that our source uses exists: held against signatures recorded from the wheels."""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
import types
from fnmatch import fnmatch
from typing import Any

import numpy as np
import pytest
import scipy.sparse.csgraph

from contract.record import RECORD, record
from contract.uses import HOST_ARRAYS, METHODS, REPOSITORY, STAND_INS, Use, uses, uses_in
from ouroflow.components import gpu_cugraph, strong_components
from ouroflow.errors import ResourceError
from simt.host import HostAccelerator

pytestmark = pytest.mark.contract

ADVICE = "; if the code is right, record again where RAPIDS is installed: python tests/contract/record.py"


@pytest.fixture(scope="module")
def names() -> dict[str, str | None]:
    return json.loads(RECORD.read_text(encoding="utf-8"))["names"]


def complaint(use: Use, names: dict[str, str | None]) -> str | None:
    """Return what is wrong with a use, with its file and line, None if nothing is."""
    where = f"{use.file}:{use.line}: {use.name}"
    if use.name not in names:
        return f"{where} is not in the record{ADVICE}"
    parameters = names[use.name]
    if parameters is None or (use.positional is None and not use.keywords):
        return None
    scope: dict[str, Any] = {}
    exec(f"def recorded({parameters}): ...", scope)
    signature = inspect.signature(scope["recorded"])
    bind = signature.bind if use.whole else signature.bind_partial
    try:
        bind(*[None] * (use.positional or 0), **dict.fromkeys(use.keywords))
    except TypeError as error:
        return f"{where}({parameters}): {error}{ADVICE}"
    return None


def test_every_use_is_one_that_the_recorded_signatures_allow(names: dict[str, str | None]) -> None:
    found = uses()
    assert len(found) > 100
    complaints = [text for use in found if (text := complaint(use, names))]
    assert not complaints, "\n".join(complaints)


def test_every_line_of_the_tables_stands_for_something_in_the_source() -> None:
    found = uses()
    for pattern, name, owner in METHODS:
        assert any(use.name == f"{owner}.{name}" and fnmatch(use.file, pattern) for use in found), (pattern, name)
    for pattern, name, package in STAND_INS:
        assert any(use.name.startswith(f"{package}.") and fnmatch(use.file, pattern) for use in found), (pattern, name)
    for file, receiver in HOST_ARRAYS:
        assert f"{receiver}." in (REPOSITORY / file).read_text(encoding="utf-8"), (file, receiver)


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("xp.argsort(a, kind='stable')", None),
        ("xp.argsorted(a)", "cupy.argsorted is not in the record"),
        ("xp.argsort(a, order='x')", "unexpected keyword argument 'order'"),
        ("self.on.xp.argsort()", "missing a required argument: 'a'"),
        ("import cupy as cp\ncp.argsort(*a, kind=None)", None),
        ("from cupy import argsort\nxp.argsort(a, 1, None, 4)", "too many positional arguments"),
        ("xp.minimum(a, b, where=c)", "unexpected keyword argument 'where'"),
        ("xp.minimum.at(a, b, c)", None),
        ("xp.minimum.reduceat(a, b)", "cupy.minimum.reduceat is not in the record"),
        ("a.sum(axis=0, initial=1)", "unexpected keyword argument 'initial'"),
        ("labels.max(initial=-1)", "unexpected keyword argument 'initial'"),
        ("np.sum(a, initial=1)", None),
        ("column.str.replace('a', 'b', regexp=False)", "unexpected keyword argument 'regexp'"),
        ("frames.module.read_csv(text, sep=',', encoding='cp949')", "unexpected keyword argument 'encoding'"),
        ("numpy.argsorted(a); self.argsort(b, c, d, e, f)", None),
    ],
)
def test_wrong_names_and_keywords_are_found_with_file_and_line(
    source: str, wrong: str | None, names: dict[str, str | None]
) -> None:
    file = "engine/ouroflow/ledger/gpu_x.py"
    complaints = [text for use in uses_in(source, file) if (text := complaint(use, {**ARRAYS, **names}))]
    if wrong is None:
        assert not complaints
    else:
        assert len(complaints) == 1 and wrong in complaints[0]
        assert complaints[0].startswith(f"{file}:{source.count(chr(10)) + 1}: ")


ARRAYS = {
    "cupy.ndarray.max": "axis=..., out=..., keepdims=...",
    "cupy.ndarray.sum": "axis=..., dtype=..., out=..., keepdims=...",
}


def test_the_record_is_what_is_installed_where_rapids_is(names: dict[str, str | None]) -> None:
    absent = [name for name in ("cupy", "cudf", "cugraph") if importlib.util.find_spec(name) is None]
    if absent:
        pytest.skip(f"lane contract: {', '.join(absent)} not installed; the committed record is tested alone")
    installed, recorded = record(set(names)), json.loads(RECORD.read_text(encoding="utf-8"))
    if installed["versions"] == recorded["versions"]:
        assert installed["names"] == recorded["names"]
    complaints = [text for use in uses() if (text := complaint(use, installed["names"]))]
    assert not complaints, "\n".join(complaints)


def test_the_record_names_no_place_of_the_machine_that_made_it() -> None:
    text = RECORD.read_text(encoding="utf-8")
    assert str(REPOSITORY) not in text and "/site-packages" not in text


# --- cuGraph, which has no device here ------------------------------------------------------------------------------


class _Graph:
    """What our source asks of ``cugraph.Graph``."""

    def __init__(self, directed: bool = False) -> None:
        assert directed

    def from_cudf_edgelist(self, flows: Any, source: str, destination: str, renumber: bool) -> None:
        assert not renumber
        self.payer, self.payee = flows[source].get(), flows[destination].get()


def _components_with_other_numbers(graph: _Graph, on: HostAccelerator) -> dict[str, Any]:
    """Label as cuGraph may: in any order of the companies, by any number, up to the largest id that has a flow."""
    count = int(max(graph.payer.max(), graph.payee.max())) + 1
    flows = scipy.sparse.coo_array((np.ones(len(graph.payer)), (graph.payer, graph.payee)), shape=(count, count))
    _, label = scipy.sparse.csgraph.connected_components(flows, connection="strong")
    order = np.random.default_rng(1).permutation(count)
    found = {"vertex": order, "labels": (label * 7919 % 1_000_003)[order]}
    return {name: types.SimpleNamespace(values=on.to_device(column)) for name, column in found.items()}


@pytest.mark.host
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("flows", [0, 1, 60, 400])
def test_components_of_cugraph_get_our_numbers(flows: int, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    on = HostAccelerator()
    monkeypatch.setitem(sys.modules, "cudf", types.SimpleNamespace(DataFrame=dict))
    monkeypatch.setitem(
        sys.modules,
        "cugraph",
        types.SimpleNamespace(
            Graph=_Graph, strongly_connected_components=lambda graph: _components_with_other_numbers(graph, on)
        ),
    )
    payer, payee = np.random.default_rng(flows).integers(0, 200, (2, flows)).astype(dtype)
    labels, sizes = gpu_cugraph.labels_by_cugraph(on, on.to_device(payer), on.to_device(payee), 230)
    expected = strong_components(payer, payee, 230)
    assert labels.dtype == dtype and np.array_equal(on.to_host(labels), expected)
    assert sizes.tolist() == [size for size in np.bincount(expected).tolist() if size > 1]


@pytest.mark.host
def test_without_cugraph_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cugraph", None)
    on = HostAccelerator()
    ids = on.to_device(np.zeros(1, np.int32))
    with pytest.raises(ResourceError, match=r"--scc cugraph: cuGraph cannot be imported .*install ouroflow\[cu12\]"):
        gpu_cugraph.labels_by_cugraph(on, ids, ids, 1)
