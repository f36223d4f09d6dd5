"""Every instantiation of every kernel compiles for every architecture, without a warning and without a device."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from ouroflow.runtime.launch import OPTIONS, Program, programs
from simt.host import LocalProgram

pytestmark = pytest.mark.nvrtc

ARCHITECTURES = (75, 80, 90, 100, 120)
REGISTERS = 65_536  # of a multiprocessor, on all of these
SHARED_BYTES = 48 << 10
SPILLED_BYTES = 64  # a few words, in blocks so large that they must; more would be traffic worth a look

RESOURCES = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?(?P<spilled>\d+) bytes spill stores.*?Used (?P<registers>\d+) registers"
    r"(?P<more>[^\n]*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Compiled:
    """What NVRTC made of a program for one architecture."""

    cubin: bytes
    mangled: dict[str, str]
    log: str

    def used(self) -> dict[str, tuple[int, int, int]]:
        """Return registers, spilled bytes and bytes of shared memory by mangled name."""
        found = {}
        for part in RESOURCES.finditer(self.log):
            shared = re.search(r"(\d+) bytes smem", part["more"])
            found[part["name"]] = int(part["registers"]), int(part["spilled"]), int(shared[1]) if shared else 0
        return found


def compile_for(program: Program, architecture: int) -> Compiled:
    from cuda.bindings import nvrtc

    def checked(status: object, *values: object) -> object:
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise AssertionError(f"{program.file} for sm_{architecture}: {status}\n{log()}")
        return values[0] if values else None

    def log() -> str:
        text = bytearray(nvrtc.nvrtcGetProgramLogSize(made)[1])
        nvrtc.nvrtcGetProgramLog(made, text)
        return text.rstrip(b"\0").decode()

    made = checked(*nvrtc.nvrtcCreateProgram(program.source.encode(), program.file.encode(), 0, [], []))
    for name in program.names():
        checked(*nvrtc.nvrtcAddNameExpression(made, name.encode()))
    options = [*OPTIONS, f"--gpu-architecture=sm_{architecture}", "--ptxas-options=-v"]
    checked(*nvrtc.nvrtcCompileProgram(made, len(options), [option.encode() for option in options]))
    cubin = bytearray(checked(*nvrtc.nvrtcGetCUBINSize(made)))
    checked(*nvrtc.nvrtcGetCUBIN(made, cubin))
    mangled = {name: checked(*nvrtc.nvrtcGetLoweredName(made, name.encode())).decode() for name in program.names()}
    compiled = Compiled(bytes(cubin), mangled, log())
    checked(*nvrtc.nvrtcDestroyProgram(made))
    return compiled


PROGRAMS = {program.file: program for program in programs()}
JOBS = [(file, architecture) for file in PROGRAMS for architecture in ARCHITECTURES]


@pytest.fixture(scope="module")
def compiled() -> Iterator[dict[tuple[str, int], Future[Compiled]]]:
    with ThreadPoolExecutor() as pool:
        yield {
            (file, architecture): pool.submit(compile_for, PROGRAMS[file], architecture) for file, architecture in JOBS
        }


@pytest.mark.parametrize(("file", "architecture"), JOBS)
def test_every_instantiation_compiles_without_a_warning(
    compiled: dict[tuple[str, int], Future[Compiled]], file: str, architecture: int
) -> None:
    result = compiled[file, architecture].result()
    assert len(result.mangled) == len(set(result.mangled.values())) == len(PROGRAMS[file].names())
    for name, mangled in result.mangled.items():
        assert mangled.encode() + b"\0" in result.cubin, f"the cubin lacks {name}"
    assert [line for line in result.log.splitlines() if "warning" in line] == []


@pytest.mark.parametrize(("file", "architecture"), JOBS)
def test_every_block_fits_a_multiprocessor(
    compiled: dict[tuple[str, int], Future[Compiled]], file: str, architecture: int
) -> None:
    # A block whose registers do not fit is refused when it is launched, and only there.
    result = compiled[file, architecture].result()
    used = result.used()
    for kernel in PROGRAMS[file].kernels:
        for name, _ in kernel.instantiations():
            registers, spilled, shared = used[result.mangled[name]]
            allotted = -(-registers // 8) * 8 * kernel.block
            assert allotted <= REGISTERS, f"{name}: {registers} registers in blocks of {kernel.block}"
            assert shared <= SHARED_BYTES, f"{name}: {shared} bytes of shared memory"
            assert spilled <= SPILLED_BYTES, f"{name}: {spilled} bytes of registers spilled"


def test_a_call_that_cuda_lacks_does_not_compile() -> None:
    program = LocalProgram("signed.cu", "__global__ void add(long long* sum) {\n  atomicAdd(sum, 1ll);\n}\n")
    program.kernel("add", "int64*")
    with pytest.raises(AssertionError, match=r"signed\.cu\(2\): error"):
        compile_for(program, 90)


def test_an_error_in_common_cuh_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    program = LocalProgram("uses.cu", '\n#include "common.cuh"\n__global__ void none() {}\n')
    program.kernel("none")
    broken = "// first line\nint broken = ;\n"
    monkeypatch.setattr(program, "read", lambda file: program.text if file == "uses.cu" else broken)
    with pytest.raises(AssertionError, match=r"common\.cuh\(2\): error"):
        compile_for(program, 90)


def test_no_kernel_rounds_otherwise_than_its_cpu_twin_under_the_flags_of_cupy() -> None:
    # CuPy appends -ftz=true to every call of NVRTC; single numbers below 2^-126 would be lost, and with them bits.
    from cuda.bindings import nvrtc

    options = [*OPTIONS, "--gpu-architecture=compute_90", "-ftz=true"]
    for program in programs():
        _, made = nvrtc.nvrtcCreateProgram(program.source.encode(), program.file.encode(), 0, [], [])
        for name in program.names():
            nvrtc.nvrtcAddNameExpression(made, name.encode())
        (status,) = nvrtc.nvrtcCompileProgram(made, len(options), [option.encode() for option in options])
        assert status == nvrtc.nvrtcResult.NVRTC_SUCCESS
        ptx = bytearray(nvrtc.nvrtcGetPTXSize(made)[1])
        nvrtc.nvrtcGetPTX(made, ptx)
        nvrtc.nvrtcDestroyProgram(made)
        assert b".visible .entry" in ptx
        assert b".ftz" not in ptx and b"fma.rn" not in ptx, program.file
