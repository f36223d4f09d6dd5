"""A machine for `ouroflow.runtime.launch` made of g++ and NumPy: the files of ``kernels/``, run without a GPU.

`HostAccelerator` does what `Cuda` does with CuPy, and its arrays refuse what CuPy refuses (`simt.strict`). It also checks
what a device cannot: that each kernel takes what its declaration in Python says, type by type, how many edges a kernel
reads, and how often the host waits for the device.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ouroflow.errors import KernelError
from ouroflow.runtime.launch import Accelerator, Kernel, Program, RawLaunch
from simt.strict import DeviceArray, Module, address

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("OUROFLOW_SIMT_CACHE", Path(tempfile.gettempdir()) / f"ouroflow-simt-{os.getuid()}"))

# Products are not fused into sums, as on the device (see launch.OPTIONS).
COMMON: tuple[str, ...] = ("g++", "-std=c++20", "-fPIC", "-pthread", "-ffp-contract=off")
if platform.machine() == "x86_64":
    COMMON += ("-mtls-dialect=gnu2",)  # threadIdx is read often; elsewhere the quick way is the usual one
PLAIN = ("-O2",)
THREAD_SANITIZER = ("-O1", "-g1", "-fsanitize=thread")
# Shared memory has a fixed size and no guard zones: "bounds" watches it, and the rest is what CUDA leaves undefined as well.
ADDRESS_SANITIZER = (
    "-O1",
    "-g1",
    "-fsanitize=address,bounds,shift,integer-divide-by-zero,signed-integer-overflow,float-cast-overflow,alignment",
    "-fno-sanitize-recover=all",
)
SCHEDULER_FLAGS = {
    PLAIN: (),
    THREAD_SANITIZER: ("-DSIMT_TSAN", "-DSIMT_SANITIZED"),
    ADDRESS_SANITIZER: ("-DSIMT_SANITIZED",),
}


class LocalProgram(Program):
    """A program of the tests: a file of this folder, which may include ``common.cuh``; or any text under that name."""

    def __init__(self, file: str, text: str | None = None) -> None:
        super().__init__(file)
        self.text = (HERE / file).read_text(encoding="utf-8") if text is None else text

    def read(self, file: str) -> str:
        """Return its own text, or a file of ``kernels/``."""
        return self.text if file == self.file else super().read(file)


class HostAccelerator(Accelerator):
    """Arrays of `simt.strict` and kernels compiled by g++.

    Parameters
    ----------
    memory : int
        Bytes that it says are free: stages plan by it.
    resident_threads : int
        Threads that it says it keeps in flight; small, so that kernels stride over their items.
    workers : int
        OS threads that run blocks.
    flags : tuple of str
        `PLAIN`, `THREAD_SANITIZER` or `ADDRESS_SANITIZER`.

    Attributes
    ----------
    launches, touched_edges : Counter
        By kernel name: how often it ran, and how many edges it said it read.
    synchronisations : Counter
        How often the host waited, by what for: 'to_host', 'int', 'bool', 'mask', 'nonzero' and the like.
    """

    def __init__(
        self, *, memory: int = 1 << 34, resident_threads: int = 2048, workers: int = 2, flags: tuple[str, ...] = PLAIN
    ) -> None:
        super().__init__()
        module = Module()
        self.xp, self.name, self.synchronisations = module, "the host lane", module.synchronisations
        self.memory, self.resident_threads, self.workers, self.flags = memory, resident_threads, workers, flags
        self.launches: Counter[str] = Counter()
        self.touched_edges: Counter[str] = Counter()
        self._touched = 0

    def launch(self, kernel: Kernel, threads: int, *arguments: Any, blocks: int | None = None) -> None:
        """Run a kernel and count."""
        super().launch(kernel, threads, *arguments, blocks=blocks)
        if threads > 0:
            self.launches[kernel.name] += 1
            self.touched_edges[kernel.name] += self._touched

    def compile(self, program: Program) -> Callable[[str], RawLaunch]:
        """Compile every instantiation, and hold each to its declaration."""
        names = program.names()
        library = ctypes.CDLL(str(shared_object(program.source, names, self.flags)))
        for kernel in program.kernels:
            for name, chosen in kernel.instantiations():
                declared = [_declared(p.kind, p.array, p.written, chosen) for p in kernel.parameters]
                signature = library[f"kernel_{names.index(name)}_signature"]
                signature.restype = ctypes.c_char_p
                found = signature().decode().split(",")[:-1]
                if found != declared:
                    raise KernelError(f"{program.file}: {name} takes {found}, and Python declares {declared}")
        take_touched = library.simt_take_touched_edges
        take_touched.restype = ctypes.c_longlong

        def look_up(name: str) -> RawLaunch:
            function = library[f"kernel_{names.index(name)}"]

            def launch(grid: tuple[int, ...], block: tuple[int, ...], arguments: Sequence[Any]) -> None:
                kept = [_passed(argument) for argument in arguments]
                pointers = (ctypes.c_void_p * len(kept))(*[value.ctypes.data for value in kept])
                function(_three(grid), _three(block), pointers, self.workers)
                self._touched = take_touched()

            return launch

        return look_up

    def free_bytes(self) -> int:
        """Return what the test says is free."""
        return self.memory

    def to_device(self, array: npt.NDArray[Any]) -> DeviceArray:
        """Copy: the device's memory is not the host's."""
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{type(array).__name__} is no array of the host")
        made: DeviceArray = self.xp.from_host(array)
        return made

    def to_host(self, array: DeviceArray) -> npt.NDArray[Any]:
        """Copy back."""
        if not isinstance(array, DeviceArray):
            raise TypeError(f"{type(array).__name__} is no array of the device")
        self.synchronisations["to_host"] += 1
        return array._memory.copy()

    def is_here(self, array: Any) -> bool:
        """Tell that the arrays of the lane lie here."""
        return isinstance(array, DeviceArray)

    def seal(self, array: DeviceArray) -> None:
        """Refuse writes to this array from now on."""
        array._memory.setflags(write=False)

    def synchronize(self) -> None:
        """Return at once: every launch waits for its end."""


class NumpyAccelerator(HostAccelerator):
    """The host lane on plain NumPy arrays, which kernels write to where they lie: for tests of single kernels."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.xp = np

    def is_here(self, array: Any) -> bool:
        """Tell that NumPy arrays lie here."""
        return isinstance(array, np.ndarray)


def shared_object(source: str, names: Sequence[str], flags: tuple[str, ...] = PLAIN) -> Path:
    """Compile kernels into a shared library, once for each text, and return its path."""
    shim = (HERE / "simt.h").read_text(encoding="utf-8")
    scheduler_text = shim + (HERE / "simt.cpp").read_text(encoding="utf-8")
    scheduler = _once(
        scheduler_text,
        ".o",
        [*COMMON, "-O2", *SCHEDULER_FLAGS[flags], "-c", str(HERE / "simt.cpp")],
    )
    exports = "".join(f"SIMT_EXPORT(kernel_{place}, {name})\n" for place, name in enumerate(names))
    text = f'{source}\n#line 1 "instantiations"\n{exports}'
    command = [*COMMON, *flags, "-shared", "-include", str(HERE / "simt.h"), str(scheduler), "-x", "c++", "-"]
    return _once(text, ".so", command, str(scheduler), shim)


def _once(text: str, suffix: str, command: list[str], *more: str) -> Path:
    """Return what a compiler command makes of a text (its standard input), from the cache if it was made before."""
    key = hashlib.sha256("\0".join([text, *command, *more]).encode()).hexdigest()[:20]
    made = CACHE / f"{key}{suffix}"
    if made.exists():
        return made
    CACHE.mkdir(parents=True, exist_ok=True)
    partial = CACHE / f"{key}-{os.getpid()}{suffix}"
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # no sanitizer in g++
    done = subprocess.run(
        [*command, "-o", str(partial)], input=text, capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise KernelError(f"g++ refuses the kernels:\n{done.stderr}")
    partial.replace(made)
    return made


def _declared(kind: str, array: bool, written: bool, chosen: dict[str, str]) -> str:
    name = chosen.get(kind, kind)
    return f"{'' if written else 'const '}{name}*" if array else name


def _passed(argument: Any) -> npt.NDArray[Any]:
    """Return an array whose memory holds the argument as the kernel reads it: a value, or an address."""
    if isinstance(argument, DeviceArray):
        return np.array(address(argument), np.uintp)
    if isinstance(argument, np.ndarray):
        return np.array(argument.ctypes.data, np.uintp)
    return np.asarray(argument)


def _three(extent: tuple[int, ...]) -> Any:
    return (ctypes.c_uint * 3)(*(*extent, 1, 1, 1)[:3])
