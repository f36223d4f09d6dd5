"""Kernels and the machines that run them: typed, checked launches of the CUDA C++ in ``kernels/``.

CuPy passes a kernel whatever it is given: a float64 array where the kernel reads float32 is read as such in silence. So
every kernel is declared once, beside the code that launches it, and `Accelerator.launch` holds each call to that
declaration: number of arguments, dtype, contiguity, device, what may be written. `Cuda` runs kernels on an NVIDIA device
through CuPy. Another machine needs three things of its own (an array module, how to compile, how much memory there is);
the tests have one that compiles the same files with g++ and runs them on NumPy arrays.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from ouroflow.errors import InputError, KernelError, ResourceError

Array = Any
"""An array of the accelerator's array module: CuPy on a device."""

RawLaunch = Callable[[tuple[int, ...], tuple[int, ...], Sequence[Any]], None]
"""What compiling gives for one instantiation: (grid, block, arguments) -> None, as CuPy's RawKernel."""

VARIABLES = {"Index": ("int32", "int64"), "Real": ("float32", "float64")}
"""Template parameters of kernels, and what they stand for."""

CPP_NAMES = {
    "int32": "int",
    "int64": "long long",
    "uint8": "unsigned char",
    "uint32": "unsigned int",
    "uint64": "unsigned long long",
    "float32": "float",
    "float64": "double",
}
"""The types that kernels take, and how C++ calls them."""

OPTIONS = ("-std=c++17", "--fmad=false")
"""NVRTC options. Products are not fused into sums, so that a kernel rounds like its CPU twin, bit for bit."""

WARP = 32

PROGRAM_MODULES: tuple[str, ...] = (
    "ouroflow.components.gpu_kernels",
    "ouroflow.roundtrip.gpu_push",
    "ouroflow.roundtrip.gpu_walks",
)
"""The modules that declare programs."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a kernel.

    Attributes
    ----------
    kind : str
        A key of `CPP_NAMES` or of `VARIABLES`.
    array : bool
        A pointer to device memory, or a value.
    written : bool
        Whether the kernel may write to it.
    """

    kind: str
    array: bool
    written: bool

    @classmethod
    def parse(cls, text: str) -> Parameter:
        """Read 'int64' (a value), 'const Index*' (an array that is read) or 'Index*' (one that is written)."""
        kind = text.removeprefix("const ").removesuffix("*")
        if kind not in CPP_NAMES and kind not in VARIABLES:
            raise KernelError(f"parameter {text!r}: unknown type {kind}")
        array = text.endswith("*")
        return cls(kind, array, array and not text.startswith("const "))


@dataclass(frozen=True, eq=False)
class Kernel:
    """A kernel as declared in Python; `Program.kernel` makes it."""

    program: Program
    name: str
    parameters: tuple[Parameter, ...]
    types: tuple[str, ...]
    block: int

    def instantiation(self, chosen: dict[str, str]) -> str:
        """Return the C++ name for chosen types, such as ``push_level<long long>``."""
        if not self.types:
            return self.name
        return f"{self.name}<{', '.join(CPP_NAMES[chosen[variable]] for variable in self.types)}>"

    def instantiations(self) -> list[tuple[str, dict[str, str]]]:
        """Return every C++ name of this kernel with the types it is made of."""
        choices = [dict(zip(self.types, kinds, strict=True)) for kinds in _combinations(self.types)]
        return [(self.instantiation(chosen), chosen) for chosen in choices]


class Program:
    """One file of ``kernels/`` with the kernels that Python launches from it.

    Parameters
    ----------
    file : str
        Its name, such as 'components.cu'.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.kernels: list[Kernel] = []

    def kernel(self, name: str, *parameters: str, types: tuple[str, ...] = (), block: int = 256) -> Kernel:
        """Declare a kernel.

        Parameters
        ----------
        name : str
            Name of the ``__global__`` function.
        *parameters : str
            Its parameters as `Parameter.parse` reads them.
        types : tuple of str
            Its template parameters, names of `VARIABLES`; each occurs in the type of an array parameter.
        block : int
            Threads of a block.
        """
        kernel = Kernel(self, name, tuple(Parameter.parse(text) for text in parameters), types, block)
        variables = {parameter.kind for parameter in kernel.parameters if parameter.kind in VARIABLES}
        told = {parameter.kind for parameter in kernel.parameters if parameter.array} & variables
        if not variables == told == set(types):
            raise KernelError(
                f"{name}: template parameters {types}; its parameters use {sorted(variables)}, and arrays tell {sorted(told)}"
            )
        self.kernels.append(kernel)
        return kernel

    def read(self, file: str) -> str:
        """Return the text of a file of ``kernels/``."""
        return (resources.files("ouroflow.kernels") / file).read_text(encoding="utf-8")

    @cached_property
    def source(self) -> str:
        """The text that is compiled.

        ``common.cuh`` is put in place of its ``#include``: compilation caches go by the text, and would miss a change
        in an included file.
        """
        lines: list[str] = []
        for number, line in enumerate(self.read(self.file).splitlines(), start=1):
            if line.startswith('#include "'):
                name = line.split('"')[1]
                lines += [f'#line 1 "{name}"', self.read(name), f'#line {number + 1} "{self.file}"']
            else:
                lines.append(line)
        return "\n".join([f'#line 1 "{self.file}"', *lines, ""])

    def names(self) -> list[str]:
        """Return the C++ names of all instantiations of all kernels."""
        return [name for kernel in self.kernels for name, _ in kernel.instantiations()]


class Accelerator(ABC):
    """A machine that runs kernels: an array module and memory of its own.

    Attributes
    ----------
    xp : module
        NumPy's interface for arrays in its memory (CuPy).
    name : str
        What people call it.
    resident_threads : int
        Threads that it keeps in flight; more blocks than that only wait, so launches are capped there.
    """

    xp: Any
    name: str
    resident_threads: int

    def __init__(self) -> None:
        self._compiled: dict[Program, Callable[[str], RawLaunch]] = {}
        self._functions: dict[tuple[Kernel, str], RawLaunch] = {}

    @abstractmethod
    def compile(self, program: Program) -> Callable[[str], RawLaunch]:
        """Compile every instantiation of a program; return what looks one up by its C++ name."""

    @abstractmethod
    def free_bytes(self) -> int:
        """Return how much of its memory a stage may take now."""

    @abstractmethod
    def to_device(self, array: npt.NDArray[Any]) -> Array:
        """Return a copy of a NumPy array in its memory."""

    @abstractmethod
    def to_host(self, array: Array) -> npt.NDArray[Any]:
        """Return a NumPy copy of one of its arrays; waits until the array is complete."""

    @abstractmethod
    def is_here(self, array: Array) -> bool:
        """Tell whether an array lies in its memory."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all launched work is done."""

    def seal(self, array: Array) -> None:  # noqa: B027 (nothing to do is the rule)
        """Make an array read-only where the machine knows such a mark (the host lane of the tests); CuPy does not."""

    def warm(self, program: Program) -> None:
        """Compile a program now rather than at its first launch."""
        if program not in self._compiled:
            self._compiled[program] = self.compile(program)

    def launch(self, kernel: Kernel, threads: int, *arguments: Any, blocks: int | None = None) -> None:
        """Run a kernel with at least one thread for each of `threads` items, or with a stride over them.

        Parameters
        ----------
        kernel : Kernel
            What to run.
        threads : int
            How many threads would have an item of their own; 0 launches nothing. Kernels stride over their items, for the grid is
            capped at what the machine keeps in flight.
        *arguments
            As declared. Values are converted to the declared type, which must hold them.
        blocks : int, optional
            Exactly so many blocks instead.

        Raises
        ------
        KernelError
            If an argument is not what the kernel takes: a defect of the caller.
        """
        values, chosen = self._checked(kernel, arguments)
        if threads <= 0:
            return
        name = kernel.instantiation(chosen)
        function = self._functions.get((kernel, name))
        if function is None:
            self.warm(kernel.program)
            function = self._functions[kernel, name] = self._compiled[kernel.program](name)
        most = max(1, self.resident_threads // kernel.block)
        grid = blocks or min(-(-threads // kernel.block), most)
        function((grid,), (kernel.block,), tuple(values))

    def require(self, needed: int, what: str) -> None:
        """Refuse a stage whose need is known to pass the free memory.

        Raises
        ------
        ResourceError
            With both figures.
        """
        free = self.free_bytes()
        if needed > free:
            raise ResourceError(
                f"{what} take {_megabytes(needed)} of device memory, and {_megabytes(free)} are free on {self.name}; "
                "use a device with more memory, or --device cpu, which computes the same"
            )

    def _checked(self, kernel: Kernel, arguments: Sequence[Any]) -> tuple[list[Any], dict[str, str]]:
        """Return the arguments as the kernel takes them, and the types chosen for its template parameters."""
        if len(arguments) != len(kernel.parameters):
            raise KernelError(f"{kernel.name} takes {len(kernel.parameters)} arguments, not {len(arguments)}")
        values, chosen = list(arguments), dict[str, str]()
        for place, parameter in enumerate(kernel.parameters):  # arrays first: they tell the types of values
            if parameter.array:
                self._check_array(f"{kernel.name}, argument {place}", parameter, values[place], chosen)
        for place, parameter in enumerate(kernel.parameters):
            if not parameter.array:
                kind = chosen.get(parameter.kind, parameter.kind)
                values[place] = _value(f"{kernel.name}, argument {place}", kind, values[place])
        return values, chosen

    def _check_array(self, where: str, parameter: Parameter, value: Any, chosen: dict[str, str]) -> None:
        """Refuse what a kernel cannot take as an array; a first array of a template type chooses it."""
        known = (
            (chosen[parameter.kind],) if parameter.kind in chosen else VARIABLES.get(parameter.kind, (parameter.kind,))
        )
        kinds = " or ".join(known)
        if not isinstance(value, self.xp.ndarray):
            raise KernelError(f"{where}: an array of {kinds} on {self.name} is needed, not {type(value).__name__}")
        if str(value.dtype) not in known:
            raise KernelError(f"{where}: the array holds {value.dtype}, and the kernel reads {kinds}")
        if parameter.kind in VARIABLES:
            chosen[parameter.kind] = str(value.dtype)
        if not value.flags.c_contiguous:
            raise KernelError(f"{where}: the array is not contiguous")
        if not self.is_here(value):
            raise KernelError(f"{where}: the array lies on another device")
        # CuPy knows no read-only arrays; NumPy's mark is honoured where there is one.
        if parameter.written and not getattr(value.flags, "writeable", True):
            raise KernelError(f"{where}: the kernel writes to this array, which is read-only")


def _value(where: str, kind: str, value: Any) -> np.generic:
    """Return a value as a NumPy scalar of the declared type, refusing what that does not hold."""
    dtype = np.dtype(kind)
    try:
        number = operator.index(value) if dtype.kind != "f" else float(value + 0)  # no text: float("1") is 1.0
    except (TypeError, ValueError):
        raise KernelError(f"{where}: {value!r} is no {kind}") from None
    limits: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    if math.isfinite(number) and not dtype.type(limits.min).item() <= number <= dtype.type(limits.max).item():
        raise KernelError(f"{where}: {number} does not fit {kind}")
    return dtype.type(number)


def programs() -> list[Program]:
    """Return all programs of ouroflow: what is compiled ahead, and what the tests prove to compile."""
    modules = [importlib.import_module(name) for name in PROGRAM_MODULES]
    return list({value: None for module in modules for value in vars(module).values() if isinstance(value, Program)})


def _combinations(types: tuple[str, ...]) -> list[tuple[str, ...]]:
    return list(itertools.product(*(VARIABLES[variable] for variable in types)))


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


class Cuda(Accelerator):
    """An NVIDIA device, through CuPy.

    Parameters
    ----------
    ordinal : int
        Which of the devices that CUDA shows to this process.

    Raises
    ------
    ResourceError
        If CuPy is not installed or finds no such device.
    """

    def __init__(self, ordinal: int = 0) -> None:
        super().__init__()
        try:
            import cupy
        except ImportError as error:
            raise ResourceError(f"CuPy cannot be imported ({error})") from error
        try:
            properties = cupy.cuda.runtime.getDeviceProperties(ordinal)
            self._device = cupy.cuda.Device(ordinal)
            self._device.use()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise ResourceError(f"no usable NVIDIA device: {error}") from error
        self.xp = cupy
        self.ordinal = ordinal
        self.name = properties["name"].decode()
        self.capability: tuple[int, int] = (properties["major"], properties["minor"])
        self.resident_threads = properties["multiProcessorCount"] * properties["maxThreadsPerMultiProcessor"]
        self._shared = False
        self._unused_bytes: Callable[[], int] = cupy.get_default_memory_pool().free_bytes

    def share_pool(self) -> None:
        """Let CuPy allocate from the same memory pool as cuDF and cuGraph, where RMM is installed.

        Without this each of them would keep a pool that the others cannot use. A pool that the process has set up already is
        kept; else one is made, for plain allocations would make every temporary array wait for the device.
        """
        if self._shared or importlib.util.find_spec("rmm") is None:
            return
        self._shared = True
        import rmm
        from rmm.allocators.cupy import rmm_cupy_allocator
        from rmm.statistics import enable_statistics, get_statistics

        pool = rmm.mr.get_current_device_resource()
        if isinstance(pool, rmm.mr.CudaMemoryResource):
            pool = rmm.mr.PoolMemoryResource(pool, initial_pool_size=self.free_bytes() // 2 // 256 * 256)
            rmm.mr.set_current_device_resource(pool)
        self.xp.cuda.set_allocator(rmm_cupy_allocator)
        if isinstance(pool, rmm.mr.PoolMemoryResource):
            enable_statistics()
            self._unused_bytes = lambda: int(pool.pool_size()) - int(get_statistics().current_bytes)

    def compile(self, program: Program) -> Callable[[str], RawLaunch]:
        """Compile with NVRTC; CuPy keeps the result on disk by text, options and architecture.

        Raises
        ------
        ResourceError
            If they do not compile here: the tests compile every kernel for every architecture, so it is the machine that lacks
            something.
        """
        module = self.xp.RawModule(code=program.source, options=OPTIONS, name_expressions=program.names())
        try:
            module.compile()
        except Exception as error:  # CuPy's own, an ImportError, or a RuntimeError, whichever part of CUDA is missing
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise ResourceError(
                f"the kernels of {program.file} cannot be compiled for {self.name} ({first}); the extra [ctk] of CuPy brings the "
                "compiler, and --device cpu does without"
            ) from error
        return module.get_function

    def free_bytes(self) -> int:
        """Return the free device memory, what the memory pool holds unused included."""
        free, _ = self._device.mem_info
        return int(free) + int(self._unused_bytes())

    def to_device(self, array: npt.NDArray[Any]) -> Array:
        """Copy to the device; waits until the copy is complete."""
        # cupy.array would copy to page-locked memory first, and keep as much of that and more for good.
        copy = self.xp.empty(array.shape, array.dtype)
        if array.size:
            copy.set(array)
            self.synchronize()  # the host may write to its array now
        return copy

    def to_host(self, array: Array) -> npt.NDArray[Any]:
        """Copy from the device."""
        return self.xp.asnumpy(array)

    def is_here(self, array: Array) -> bool:
        """Tell whether the array lies on this device."""
        # NumPy's arrays have a `device` as well, without an id.
        return isinstance(array, self.xp.ndarray) and bool(array.device.id == self.ordinal)

    def synchronize(self) -> None:
        """Wait for the current stream."""
        self.xp.cuda.get_current_stream().synchronize()


_DEVICES: dict[int, Cuda] = {}
"""Devices in use, with what was compiled for them."""


def cuda(ordinal: int = 0) -> Cuda:
    """Return one of the devices of this process, always the same object for the same device."""
    if ordinal not in _DEVICES:
        _DEVICES[ordinal] = Cuda(ordinal)
    return _DEVICES[ordinal]


def accelerator_of(array: Any) -> Accelerator | None:
    """Return the device that an array of a library user lies on, None for arrays on the host.

    Raises
    ------
    InputError
        If the array lies on a device and is not CuPy's.
    """
    if not hasattr(array, "__cuda_array_interface__"):
        return None
    if type(array).__module__.partition(".")[0] != "cupy":
        raise InputError(
            f"{type(array).__name__}: give CuPy arrays; cupy.asarray takes others of the device without a copy"
        )
    return cuda(int(array.device.id))
