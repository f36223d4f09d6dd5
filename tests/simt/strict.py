"""Arrays of the host lane that refuse what CuPy refuses: NumPy underneath, and nothing that CuPy lacks on top.

`Module` takes the place of ``cupy``. Its functions are those of the record of signatures (``tests/contract``), with the
parameters recorded there, and a few more that are written out here. `DeviceArray` takes the place of ``cupy.ndarray``: it
is no ``numpy.ndarray``, has the attributes of CuPy's and no other, and nothing takes it to the host but what does so there.

Stricter than CuPy, because the source must not rely on it: host arrays and lists are never taken up on the way (CuPy copies
some to the device in silence, when they are indexes, values that are assigned or arguments of ``asarray``); two values
for one place in an assignment, where on a device either may be the last; an assignment from a part of itself; comparing
signed with unsigned integers in ``searchsorted``, which compares as C++ does.

Not modelled: the order in which floating sums are added, and streams.
"""

from __future__ import annotations

import json
import math
import operator
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

RECORD: dict[str, str | None] = json.loads(
    (Path(__file__).resolve().parents[1] / "contract" / "signatures.json").read_text(encoding="utf-8")
)["names"]
GARBAGE = 0xA5
"""What bytes of new memory hold; floating numbers are NaN."""
_WORDS = ("int32", "uint32")
_LONG_WORDS = (*_WORDS, "int64", "uint64")
_NUMBERS = (*_WORDS, "uint64", "float32", "float64")
SCATTERED = {
    **{"add": (*_NUMBERS, "float16"), "subtract": _WORDS, "maximum": _NUMBERS, "minimum": _NUMBERS},
    **dict.fromkeys(("bitwise_and", "bitwise_or", "bitwise_xor"), _LONG_WORDS),
}
"""The dtypes of ``ufunc.at``: those for which CUDA has atomics."""
BINARY = {
    **{"add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide, "pow": np.power},
    **{"floordiv": np.floor_divide, "mod": np.remainder, "matmul": np.matmul},
    **{"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor},
    **{"lshift": np.left_shift, "rshift": np.right_shift},
}
COMPARING = {
    **{"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal},
    **{"eq": np.equal, "ne": np.not_equal},
}
"""The ufuncs behind the operators: as such they are not in the record."""


class Flags:
    """What CuPy tells about the layout, and the lane's own mark of what is read-only."""

    def __init__(self, flags: Any) -> None:
        self.c_contiguous: bool = flags.c_contiguous
        self.f_contiguous: bool = flags.f_contiguous
        self.owndata: bool = flags.owndata
        self.writeable: bool = flags.writeable


class DeviceArray:
    """An array in the memory of the lane.

    ``_memory`` is the NumPy array beneath, for the lane alone; ``_module`` counts what its host waits for.
    """

    __slots__ = ("_memory", "_module")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, module: Module, memory: npt.NDArray[Any]) -> None:
        if memory.dtype.kind not in "?biufc" or not memory.dtype.isnative:
            raise TypeError(f"a device has no arrays of {memory.dtype}")
        self._module, self._memory = module, memory

    # --- to the host --------------------------------------------------------------------------------------------------

    def get(self) -> npt.NDArray[Any]:
        return self._on_host("get").copy()

    def item(self) -> Any:
        return self._on_host("item").item()

    def tolist(self) -> Any:
        return self._on_host("tolist").tolist()

    def __bool__(self) -> bool:
        return bool(self._on_host("bool"))

    def __int__(self) -> int:
        return int(self._on_host("int"))

    def __float__(self) -> float:
        return float(self._on_host("float"))

    def __repr__(self) -> str:
        return f"device {self._memory!r}"

    def _on_host(self, how: str) -> npt.NDArray[Any]:
        self._module.synchronisations[how] += 1
        return self._memory

    def __array__(self, *_: Any, **__: Any) -> npt.NDArray[Any]:
        raise TypeError("Implicit conversion of a device array to a NumPy array; take it to the host explicitly")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__":
            raise TypeError(f"numpy.{ufunc.__name__}.{method} of a device array")
        if not options and ufunc in (*BINARY.values(), *COMPARING.values()):
            # A NumPy scalar on the left side; where it is compared, NumPy makes it an array first.
            bare = [value[()] if isinstance(value, np.ndarray) and not value.ndim else value for value in inputs]
            return self._wrap(ufunc(*(_operand(ufunc.__name__, value) for value in bare)))
        return getattr(self._module, ufunc.__name__)(*inputs, **options)

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        if any(kind is not DeviceArray for kind in types):
            raise TypeError(f"numpy.{function.__name__} of device and host arrays")
        return getattr(self._module, function.__name__)(*arguments, **options)

    # --- layout -------------------------------------------------------------------------------------------------------

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._memory.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self._memory.shape

    @property
    def strides(self) -> tuple[int, ...]:
        return self._memory.strides

    @property
    def ndim(self) -> int:
        return self._memory.ndim

    @property
    def size(self) -> int:
        return self._memory.size

    @property
    def nbytes(self) -> int:
        return self._memory.nbytes

    @property
    def itemsize(self) -> int:
        return self._memory.itemsize

    @property
    def flags(self) -> Flags:
        return Flags(self._memory.flags)

    @property
    def T(self) -> DeviceArray:
        return self._wrap(self._memory.T)

    def __len__(self) -> int:
        return len(self._memory)

    def __iter__(self) -> Iterator[DeviceArray]:
        return (self[place] for place in range(len(self)))

    def astype(self, dtype: Any, order: Any = "K", casting: Any = None, copy: bool = True) -> DeviceArray:
        if not copy and self.dtype == dtype:
            return self
        return self._wrap(self._memory.astype(dtype, order=order, casting=casting or "unsafe"))

    def copy(self, order: Any = "C") -> DeviceArray:
        return self._wrap(self._memory.copy(order))

    def view(self, dtype: Any = None) -> DeviceArray:
        return self._wrap(self._memory.view() if dtype is None else self._memory.view(dtype))

    def reshape(self, *shape: Any, order: Any = "C") -> DeviceArray:
        memory: Any = self._memory
        return self._wrap(memory.reshape(*shape, order=order))

    def ravel(self, order: Any = "C") -> DeviceArray:
        return self._wrap(self._memory.ravel(order))

    def transpose(self, *axes: Any) -> DeviceArray:
        return self._wrap(self._memory.transpose(*axes))

    def fill(self, value: Any) -> None:
        self._memory.fill(_scalar("fill", value))

    def sort(self, axis: int = -1, kind: str | None = None) -> None:
        _only_stable(kind)
        if not self._memory.flags.c_contiguous:
            raise NotImplementedError("Sorting non-contiguous array is not supported.")
        self._memory.sort(axis, kind="stable")

    def argsort(self, axis: int = -1, kind: str | None = None) -> DeviceArray:
        _only_stable(kind)
        return self._wrap(self._memory.argsort(axis, kind="stable"))

    def nonzero(self) -> tuple[DeviceArray, ...]:
        return tuple(map(self._wrap, self._on_host("nonzero").nonzero()))

    def take(self, indices: Any, axis: int | None = None) -> DeviceArray:
        return self._wrap(self._memory.take(_operand("take", indices), axis))

    def repeat(self, repeats: int, axis: int | None = None) -> DeviceArray:
        return self._wrap(self._memory.repeat(operator.index(repeats), axis))

    def _wrap(self, made: Any) -> DeviceArray:
        return DeviceArray(self._module, np.asarray(made))

    # --- reductions: arrays without axes, not numbers -------------------------------------------------------------------

    def sum(self, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> DeviceArray:
        return self._reduced(np.sum, out, axis=axis, dtype=dtype, keepdims=keepdims)

    def prod(self, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> DeviceArray:
        return self._reduced(np.prod, out, axis=axis, dtype=dtype, keepdims=keepdims)

    def mean(self, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> DeviceArray:
        return self._reduced(np.mean, out, axis=axis, dtype=dtype, keepdims=keepdims)

    def max(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> DeviceArray:
        return self._reduced(np.max, out, axis=axis, keepdims=keepdims)

    def min(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> DeviceArray:
        return self._reduced(np.min, out, axis=axis, keepdims=keepdims)

    def all(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> DeviceArray:
        return self._reduced(np.all, out, axis=axis, keepdims=keepdims)

    def any(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> DeviceArray:
        return self._reduced(np.any, out, axis=axis, keepdims=keepdims)

    def argmax(self, axis: Any = None, out: Any = None, *, keepdims: bool = False) -> DeviceArray:
        return self._reduced(np.argmax, out, axis=axis, keepdims=keepdims)

    def argmin(self, axis: Any = None, out: Any = None, *, keepdims: bool = False) -> DeviceArray:
        return self._reduced(np.argmin, out, axis=axis, keepdims=keepdims)

    def cumsum(self, axis: Any = None, dtype: Any = None, out: Any = None) -> DeviceArray:
        return self._reduced(np.cumsum, out, axis=axis, dtype=dtype)

    def _reduced(self, function: Callable[..., Any], out: DeviceArray | None, **options: Any) -> DeviceArray:
        made = function(self._memory, out=None if out is None else _operand("out", out), **options)
        return self._wrap(made) if out is None else out

    # --- indexing -------------------------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> DeviceArray:
        return self._wrap(self._memory[self._key(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        place, memory = self._key(key), self._memory
        if not isinstance(value, DeviceArray):
            memory[place] = _scalar("an assignment", value)
            return
        target, source = memory[place], value._memory
        # Indexed by an array, the target is a copy, which shares nothing; then each place must be given one value.
        picked = any(isinstance(part, np.ndarray) for part in (place if isinstance(place, tuple) else (place,)))
        if not picked and _is_same(target, source):
            return
        if not picked and np.may_share_memory(target, source) and np.shares_memory(target, source):
            raise ValueError("an array is assigned from a part of itself")
        memory[place] = source
        if picked and not _is_equal(memory[place], source.astype(memory.dtype)):
            raise ValueError("two values are assigned to one place: on a device either may be the last")

    def _key(self, key: Any) -> Any:
        if isinstance(key, tuple):
            return tuple(self._part(part) for part in key)
        return self._part(key)

    def _part(self, part: Any) -> Any:
        """Return one part of an index as NumPy takes it."""
        if isinstance(part, DeviceArray):
            if part.dtype.kind == "b":
                self._module.synchronisations["mask"] += 1
            elif part.dtype.kind not in "iu":
                raise IndexError(f"arrays used as indices must be of integer or boolean type, not {part.dtype}")
            return part._memory
        if isinstance(part, slice):
            bounds = (part.start, part.stop, part.step)
            return slice(*(None if bound is None else operator.index(bound) for bound in bounds))
        if part is None or part is Ellipsis:
            return part
        if isinstance(part, bool | np.bool_):
            raise TypeError("a device array is indexed by a truth value of the host")
        return operator.index(_scalar("an index", part))

    # --- operators ------------------------------------------------------------------------------------------------------

    def _binary(self, other: Any, function: Callable[..., Any], turned: bool = False) -> DeviceArray:
        first, second = self._memory, _operand(function.__name__, other)
        return self._wrap(function(second, first) if turned else function(first, second))

    def _in_place(self, other: Any, function: Callable[..., Any]) -> DeviceArray:
        function(self._memory, _operand(function.__name__, other), out=self._memory)
        return self

    def __neg__(self) -> DeviceArray:
        return self._wrap(-self._memory)

    def __abs__(self) -> DeviceArray:
        return self._wrap(abs(self._memory))

    def __invert__(self) -> DeviceArray:
        return self._wrap(~self._memory)


def _add_operators() -> None:
    for name, function in BINARY.items():
        setattr(DeviceArray, f"__{name}__", lambda self, other, f=function: self._binary(other, f))
        setattr(DeviceArray, f"__r{name}__", lambda self, other, f=function: self._binary(other, f, turned=True))
        setattr(DeviceArray, f"__i{name}__", lambda self, other, f=function: self._in_place(other, f))
    for name, function in COMPARING.items():
        setattr(DeviceArray, f"__{name}__", lambda self, other, f=function: self._binary(other, f))


_add_operators()


class Module:
    """What ``on.xp`` is in the host lane.

    Attributes
    ----------
    synchronisations : Counter
        How often the host waits for the device, by what for; scalars, masks and everything whose size depends on values.
    """

    ndarray = DeviceArray
    nan, inf, pi, newaxis = math.nan, math.inf, math.pi, None

    def __init__(self) -> None:
        self.synchronisations: Counter[str] = Counter()
        self.random = SimpleNamespace(RandomState=partial(_RandomState, self))

    def __getattr__(self, name: str) -> Any:
        """Return a function of the record, made on first use."""
        if f"cupy.{name}" not in RECORD:
            raise AttributeError(f"cupy.{name} is not in the record of signatures")
        found = getattr(np, name)
        made = found if isinstance(found, type) else _Function(self, name, found, RECORD[f"cupy.{name}"] or "*_, **__")
        vars(self)[name] = made
        return made

    def from_host(self, array: npt.NDArray[Any]) -> DeviceArray:
        """Copy an array of the host (the lane's, CuPy has no such function)."""
        return DeviceArray(self, np.array(array))

    # --- what is not as in NumPy ------------------------------------------------------------------------------------------

    def array(self, obj: Any, dtype: Any = None, copy: bool = True) -> DeviceArray:
        if isinstance(obj, list | tuple) and any(isinstance(part, DeviceArray) for part in obj):
            made = self.stack(obj)
            return made if dtype is None else made.astype(dtype, copy=False)
        if isinstance(obj, DeviceArray):
            return obj.astype(obj.dtype if dtype is None else dtype, copy=copy)
        return DeviceArray(self, np.array(_scalar("array", obj), dtype))

    def asarray(self, a: Any, dtype: Any = None) -> DeviceArray:
        return self.array(a, dtype, copy=False)

    def ascontiguousarray(self, a: Any, dtype: Any = None) -> DeviceArray:
        return DeviceArray(self, np.ascontiguousarray(_operand("ascontiguousarray", a, arrays=True), dtype))

    def asfortranarray(self, a: Any, dtype: Any = None) -> DeviceArray:
        return DeviceArray(self, np.asfortranarray(_operand("asfortranarray", a, arrays=True), dtype))

    def asnumpy(self, a: Any) -> npt.NDArray[Any]:
        return _device("asnumpy", a).get()

    def empty(self, shape: Any, dtype: Any = float, order: str = "C") -> DeviceArray:
        return DeviceArray(self, _with_garbage(np.empty(shape, dtype, order=order)))  # type: ignore[call-overload]

    def empty_like(self, prototype: Any, dtype: Any = None, order: str = "K", *, shape: Any = None) -> DeviceArray:
        like = _operand("empty_like", prototype, arrays=True)
        return DeviceArray(self, _with_garbage(np.empty_like(like, dtype, order, shape=shape)))  # type: ignore[call-overload]

    def concatenate(self, tup: Any, axis: int | None = 0) -> DeviceArray:
        return DeviceArray(self, np.concatenate([_operand("concatenate", part, arrays=True) for part in tup], axis))

    def stack(self, tup: Any, axis: int = 0) -> DeviceArray:
        return DeviceArray(self, np.stack([_operand("stack", part, arrays=True) for part in tup], axis))

    def lexsort(self, keys: Any) -> DeviceArray:
        if _operand("lexsort", keys, arrays=True).ndim != 2:
            raise NotImplementedError("lexsort of keys that are no array of two dimensions")
        return DeviceArray(self, np.lexsort(keys._memory))

    def sort(self, a: Any, axis: int | None = -1, kind: str | None = None) -> DeviceArray:
        _only_stable(kind)
        return DeviceArray(self, np.sort(_operand("sort", a, arrays=True), axis, kind="stable"))

    def argsort(self, a: Any, axis: int = -1, kind: str | None = None) -> DeviceArray:
        return _device("argsort", a).argsort(axis, kind)

    def repeat(self, a: Any, repeats: int, axis: int | None = None) -> DeviceArray:
        return _device("repeat", a).repeat(repeats, axis)

    def searchsorted(self, a: Any, v: Any, side: str = "left", sorter: Any = None) -> DeviceArray:
        row, values = _operand("searchsorted", a, arrays=True), _operand("searchsorted", v)
        if isinstance(v, np.generic) or sorter is not None:
            raise NotImplementedError("Only python scalars or ndarrays are supported for v, and no sorter here")
        if isinstance(v, DeviceArray) and {row.dtype.kind, values.dtype.kind} == {"i", "u"}:
            raise TypeError("searchsorted compares signed with unsigned integers, as C++ does")
        return DeviceArray(self, np.asarray(np.searchsorted(row, values, side)).astype(np.int64, copy=False))  # type: ignore[call-overload]

    def diff(self, a: Any, n: int = 1, axis: int = -1, prepend: Any = None, append: Any = None) -> DeviceArray:
        ends = {
            name: _operand("diff", end) for name, end in (("prepend", prepend), ("append", append)) if end is not None
        }
        return DeviceArray(self, np.diff(_operand("diff", a, arrays=True), n, axis, **ends))

    def bincount(self, x: Any, weights: Any = None, minlength: int | None = None) -> DeviceArray:
        self.synchronisations["bincount"] += 2
        given = None if weights is None else _operand("bincount", weights, arrays=True)
        return DeviceArray(self, np.bincount(_operand("bincount", x, arrays=True), given, minlength or 0))

    def where(self, condition: Any, x: Any = None, y: Any = None) -> Any:
        if x is None or y is None:
            return self.nonzero(condition)
        chosen = _operand("where", condition, arrays=True)
        return DeviceArray(self, np.where(chosen, _operand("where", x), _operand("where", y)))

    def nonzero(self, a: Any) -> tuple[DeviceArray, ...]:
        return _device("nonzero", a).nonzero()

    def flatnonzero(self, a: Any) -> DeviceArray:
        return _device("flatnonzero", a).ravel().nonzero()[0]

    def unique(
        self,
        ar: Any,
        return_index: bool = False,
        return_inverse: bool = False,
        return_counts: bool = False,
        axis: int | None = None,
        *,
        equal_nan: bool = True,
    ) -> Any:
        self.synchronisations["unique"] += 1
        values = _operand("unique", ar, arrays=True)
        made: Any = np.unique
        return self._made(made(values, return_index, return_inverse, return_counts, axis, equal_nan=equal_nan))

    def _made(self, made: Any) -> Any:
        if isinstance(made, tuple):
            return tuple(map(self._made, made))
        return DeviceArray(self, np.asarray(made))


class _Function:
    """A function of NumPy with the parameters that CuPy's has."""

    def __init__(self, module: Module, name: str, function: Callable[..., Any], parameters: str) -> None:
        scope: dict[str, Any] = {}
        exec(f"def {name}({parameters}): ...", scope)
        self._takes, self._module, self._function, self.__name__ = scope[name], module, function, name

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self._takes(*arguments, **options)
        take = _operand if isinstance(self._function, np.ufunc) else _argument
        given = [take(self.__name__, argument) for argument in arguments]
        out = options.pop("out", None)
        named = {name: _argument(self.__name__, option) for name, option in options.items()}
        if out is None:
            return self._module._made(self._function(*given, **named))
        self._function(*given, out=_operand(self.__name__, out, arrays=True), **named)
        return out

    @property
    def at(self) -> Callable[[Any, Any, Any], None]:
        """Change some places, each as often as it is named; for dtypes that CUDA has atomics of."""
        if self.__name__ not in SCATTERED:
            raise AttributeError(f"cupy.{self.__name__}.at is not supported")
        return self._at

    def _at(self, a: Any, indices: Any, b: Any) -> None:
        memory = _operand("at", a, arrays=True)
        if memory.dtype.name not in SCATTERED[self.__name__]:
            known = ", ".join(SCATTERED[self.__name__])
            raise TypeError(f"{self.__name__}.at only supports {known}, not {memory.dtype}")
        value = _operand("at", b)
        given = np.asarray(value).astype(memory.dtype)  # as CuPy does, whatever that loses
        self._function.at(memory, _operand("at", indices, arrays=True), given)  # type: ignore[attr-defined]


class _RandomState:
    """The draws of ``cupy.random.RandomState`` that are used; other numbers than CuPy's."""

    def __init__(self, module: Module, seed: int) -> None:
        self._module, self._draws = module, np.random.default_rng(seed)

    def random_sample(self, size: int) -> DeviceArray:
        return DeviceArray(self._module, self._draws.random(size))

    def standard_normal(self, size: int) -> DeviceArray:
        return DeviceArray(self._module, self._draws.standard_normal(size))


def address(array: DeviceArray) -> int:
    """Return where an array lies: for launches of the lane."""
    return array._memory.ctypes.data


def _operand(where: str, value: Any, *, arrays: bool = False) -> Any:
    """Return what NumPy works on: the memory of a device array, or a scalar unless only arrays will do."""
    if arrays or isinstance(value, DeviceArray):
        return _device(where, value)._memory
    return _scalar(where, value)


def _device(where: str, value: Any) -> DeviceArray:
    """Return a device array, and refuse everything else."""
    if not isinstance(value, DeviceArray):
        raise TypeError(f"{where}: {type(value).__name__} is no device array")
    return value


def _scalar(where: str, value: Any) -> Any:
    """Return a number of Python or NumPy, and refuse everything else."""
    if isinstance(value, bool | int | float | complex | np.bool_ | np.number):
        return value
    raise TypeError(f"{where}: Unsupported type {type(value).__name__}")


def _argument(where: str, value: Any) -> Any:
    """Return an argument of a function: an array, a scalar, or what is neither (a shape, a dtype, a name)."""
    if isinstance(value, DeviceArray):
        return value._memory
    parts = value if isinstance(value, list | tuple) else (value,)
    if any(isinstance(part, np.ndarray | DeviceArray) for part in parts):
        raise TypeError(f"{where}: Unsupported type {type(value).__name__} with arrays in it or on the host")
    return value


def _only_stable(kind: str | None) -> None:
    if kind not in (None, "stable"):
        raise ValueError(f"CuPy sorts by kind 'stable' or None only, not {kind!r}")


def _with_garbage(memory: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if memory.dtype.kind in "fc":
        memory.fill(math.nan)
    elif memory.dtype.kind == "b":
        memory.fill(True)
    else:
        memory.fill(np.frombuffer(bytes([GARBAGE]) * memory.itemsize, memory.dtype)[0])
    return memory


def _is_same(one: Any, other: npt.NDArray[Any]) -> bool:
    return (
        isinstance(one, np.ndarray)
        and (one.ctypes.data, one.shape, one.strides) == (other.ctypes.data, other.shape, other.strides)
        and one.dtype == other.dtype
    )


def _is_equal(found: Any, given: npt.NDArray[Any]) -> bool:
    return bool(((found == given) | ((found != found) & (given != given))).all())
