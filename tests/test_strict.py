"""The arrays of the host lane refuse what CuPy refuses, so that a twin which passes there does not fail on a device for it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ouroflow.graph import FlowGraph
from ouroflow.graph_gpu import DeviceGraph
from simt.host import HostAccelerator
from simt.strict import DeviceArray

pytestmark = pytest.mark.host

HOST = np.arange(4)


@pytest.fixture
def on() -> HostAccelerator:
    return HostAccelerator()


@pytest.fixture
def array(on: HostAccelerator) -> Any:
    return on.to_device(HOST)


Errors = type[Exception] | tuple[type[Exception], ...]


def refused(error: Errors, attempt: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    with pytest.raises(error):
        attempt(*arguments, **options)


@pytest.mark.parametrize("function", [np.add, operator.add, operator.eq, operator.lt, operator.and_, np.minimum])
def test_host_and_device_arrays_do_not_mix(function: Callable[..., Any], array: Any) -> None:
    refused(TypeError, function, array, HOST)
    refused(TypeError, function, HOST, array)
    refused(TypeError, function, array, HOST.tolist())
    assert function(array, 1).get().tolist() == function(HOST, 1).tolist()
    assert function(array, np.int64(2)).get().tolist() == function(HOST, 2).tolist()
    assert isinstance(function(np.int64(2), array), DeviceArray)


def test_nothing_becomes_a_host_array_in_silence(on: HostAccelerator, array: Any) -> None:
    assert not isinstance(array, np.ndarray)
    for attempt in (np.asarray, np.array, np.array_equal, np.add.reduce, np.frompyfunc(str, 1, 1)):
        refused((TypeError, AttributeError), attempt, array, *([HOST] if attempt is np.array_equal else []))
    refused(TypeError, operator.setitem, HOST.copy(), slice(None), array)
    assert on.synchronisations.total() == 0


def test_host_arrays_are_neither_indexes_nor_values_nor_arguments(on: HostAccelerator, array: Any) -> None:
    xp = on.xp
    for key in (HOST, HOST > 1, [0, 1], (HOST,), True):
        refused(TypeError, operator.getitem, array, key)
        refused(TypeError, operator.setitem, array, key, 1)
    for value in (HOST, [1, 2, 3, 4], HOST.astype(object), "1", None):
        refused(TypeError, operator.setitem, array, slice(None), value)
    for attempt in (xp.cumsum, xp.flatnonzero, xp.unique, xp.argsort, xp.asarray, xp.exp, xp.zeros_like, xp.diff):
        refused(TypeError, attempt, HOST)
    refused(TypeError, xp.concatenate, [array, HOST])
    refused(TypeError, xp.searchsorted, array, HOST)
    refused(TypeError, xp.where, array > 1, HOST, 0)
    refused(TypeError, on.to_device, array)
    refused(TypeError, on.to_host, HOST)


def test_numpy_functions_of_device_arrays_alone_are_those_of_the_device(array: Any) -> None:
    assert isinstance(np.cumsum(array), DeviceArray) and isinstance(np.exp(array), DeviceArray)
    refused(AttributeError, np.median, array)


@pytest.mark.parametrize(
    "name", ["setflags", "ctypes", "newbyteorder", "__index__", "__contains__", "__array_interface__"]
)
def test_what_cupy_arrays_lack_is_lacking(name: str, array: Any) -> None:
    assert not hasattr(array, name)


def test_what_cupy_lacks_or_takes_no_such_keyword_for_is_refused(on: HostAccelerator, array: Any) -> None:
    xp = on.xp
    for name in ("errstate", "add_newdoc", "argsorted", "from_dlpack_host"):
        refused(AttributeError, getattr, xp, name)
    refused(AttributeError, getattr, xp.minimum, "reduceat")
    for method in (array.sum, array.max, array.any):
        refused(TypeError, method, initial=1)
        refused(TypeError, method, where=array > 1)
    refused(TypeError, xp.minimum, array, 1, where=array > 1)
    refused(TypeError, xp.cumsum, array, initial=1)
    refused(TypeError, xp.argsort, array, order="x")


def test_sorts_are_stable_and_of_no_other_kind(on: HostAccelerator, array: Any) -> None:
    refused(ValueError, on.xp.argsort, array, kind="quicksort")
    refused(ValueError, array.sort, kind="mergesort")
    refused(NotImplementedError, on.to_device(np.arange(8))[::2].sort)
    many = on.to_device(np.arange(1000) % 3)
    assert on.to_host(on.xp.argsort(many)).tolist() == np.argsort(np.arange(1000) % 3, kind="stable").tolist()


def test_repeats_lexsort_and_searchsorted_take_what_cupy_takes(on: HostAccelerator, array: Any) -> None:
    xp = on.xp
    refused(TypeError, xp.repeat, array, array)
    assert xp.repeat(array, 2).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    refused(TypeError, xp.lexsort, (array, array))
    assert xp.lexsort(xp.stack([array, -array])).tolist() == [3, 2, 1, 0]
    refused(NotImplementedError, xp.searchsorted, array, np.int64(1))
    refused(TypeError, xp.searchsorted, array, array.astype(np.uint64))  # on a device -1 would lie behind all
    assert xp.searchsorted(array, 2).tolist() == 2


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.uint64, np.float32, np.float64])
def test_scattering_has_the_atomics_of_cuda(dtype: type, on: HostAccelerator) -> None:
    smallest, places = on.xp.full(3, 9, dtype), on.to_device(np.array([1, 1]))
    on.xp.minimum.at(smallest, places, on.to_device(np.array([3, 2], dtype)))
    assert smallest.tolist() == [9, 2, 9]


@pytest.mark.parametrize("dtype", [np.int64, np.int16, np.bool_])
def test_scattering_has_no_other_atomics(dtype: type, on: HostAccelerator) -> None:
    places = on.to_device(np.array([1, 1]))
    refused(TypeError, on.xp.minimum.at, on.xp.zeros(3, dtype), places, 1)


def test_there_are_no_arrays_of_objects_or_text(on: HostAccelerator) -> None:
    for wrong in (np.array(["a"]), np.array([None]), np.array([1], ">i4"), np.array(["2025-01-01"], "M8[D]")):
        refused(TypeError, on.to_device, wrong)
    refused(TypeError, on.xp.zeros, 3, object)


def test_reductions_and_elements_are_arrays_and_numbers_of_them_are_waited_for(on: HostAccelerator, array: Any) -> None:
    xp = on.xp
    for found in (array.sum(), array[2], array.max(), xp.count_nonzero(array), array.any(), array.argmax()):
        assert isinstance(found, DeviceArray) and found.shape == ()
    assert xp.stack([array.sum(), array[3]]).shape == xp.array([array.sum(), array[3]]).shape == (2,)
    for attempt in (range, [0, 1].__getitem__, lambda n: array[:n]):
        refused(TypeError, attempt, array[1])  # cupy.ndarray has no __index__
    assert on.synchronisations.total() == 0
    assert (int(array.sum()), float(array[1]), bool(array.any())) == (6, 1.0, True)
    assert on.synchronisations == {"int": 1, "float": 1, "bool": 1}


@pytest.mark.parametrize(
    "attempt",
    [
        lambda _, a: a[a > 1],
        lambda _, a: a.__setitem__(a > 1, 0),
        lambda on, a: on.xp.flatnonzero(a),
        lambda on, a: on.xp.unique(a),
        lambda on, a: on.xp.asnumpy(a),
        lambda on, a: on.to_host(a),
        lambda _, a: a.tolist(),
    ],
)
def test_what_makes_the_host_wait_is_counted(attempt: Callable[..., Any], on: HostAccelerator, array: Any) -> None:
    attempt(on, array)
    assert on.synchronisations.total() == 1


def test_what_makes_nobody_wait_is_not_counted(on: HostAccelerator, array: Any) -> None:
    xp = on.xp
    array[array] = 2
    array[1] = 5
    array += xp.cumsum(array[::-1]) // 2
    xp.where(array > 1, xp.minimum(array, 3), 0).astype(np.float64).sum(axis=0)
    assert on.synchronisations.total() == 0


def test_places_out_of_range_are_an_error_although_cupy_wraps_them(on: HostAccelerator, array: Any) -> None:
    refused(IndexError, operator.getitem, array, on.to_device(np.array([4])))
    refused(IndexError, operator.setitem, array, on.to_device(np.array([-5])), 0)


def test_what_depends_on_the_order_of_threads_is_an_error(on: HostAccelerator, array: Any) -> None:
    twice = on.to_device(np.array([1, 1]))
    refused(ValueError, operator.setitem, array, twice, on.to_device(np.array([7, 8])))
    array[twice] = on.to_device(np.array([7, 7]))
    assert array.tolist() == [0, 7, 2, 3]
    refused(ValueError, operator.setitem, array, slice(1, None), array[:-1])


def test_new_memory_is_not_zero(on: HostAccelerator) -> None:
    for dtype in (np.int32, np.int64, np.uint8, np.uint32, np.uint64, np.bool_):
        assert (on.xp.empty(5, dtype).get() != 0).all()
        assert (on.xp.empty_like(on.xp.zeros(5, dtype)).get() != 0).all()
    assert np.isnan(on.xp.empty(5).get()).all()


def test_a_sum_in_place_of_its_terms_is_that_sum(on: HostAccelerator, array: Any) -> None:
    on.xp.cumsum(array, out=array)
    assert array.tolist() == [0, 1, 3, 6]


def test_the_arrays_of_a_graph_are_read_only_in_the_lane(on: HostAccelerator) -> None:
    graph = DeviceGraph.from_host(on, FlowGraph.from_arrays([0, 1], [1, 0], [5, 6]))
    refused(ValueError, operator.setitem, graph.amount, 0, 1)
    assert graph.host.amount.tolist() == [5, 6]
