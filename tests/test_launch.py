"""A kernel is launched with what its declaration says, or not at all; programs are the text of kernels/ with true lines."""

from __future__ import annotations

import re
import sys
from importlib import resources

import numpy as np
import pytest

from ouroflow.errors import KernelError, ResourceError
from ouroflow.runtime.launch import Cuda, Program, programs
from simt.host import LocalProgram, NumpyAccelerator

TEXT = """
#include "common.cuh"
template <typename Index>
__global__ void mark(const Index* company, int64 companies, Index value, Index* marked) {
  for (int64 i = first_item(); i < companies; i += item_stride()) marked[company[i]] = value;
}
__global__ void scale(double factor, float offset, unsigned char flag, int64 items, double* values) {
  for (int64 i = first_item(); i < items; i += item_stride()) values[i] = flag ? factor * values[i] + offset : values[i];
}
__global__ void grid(uint32* blocks, uint32* threads) {
  if (first_item() == 0) *blocks = gridDim.x, *threads = blockDim.x;
}
"""
PROGRAM = LocalProgram("marks.cu", TEXT)
MARK = PROGRAM.kernel("mark", "const Index*", "int64", "Index", "Index*", types=("Index",))
SCALE = PROGRAM.kernel("scale", "float64", "float32", "uint8", "int64", "float64*")
GRID = PROGRAM.kernel("grid", "uint32*", "uint32*", block=96)

IDS = np.arange(6, dtype=np.int32)


class Refused(Exception):
    """Raised where a launch would have gone to the machine."""


class NoMachine(NumpyAccelerator):
    """Checks arguments, and can compile nothing."""

    def compile(self, program: Program) -> object:
        raise Refused(program.file)


def marked(dtype: type = np.int32) -> np.ndarray:
    return np.zeros(6, dtype)


def read_only() -> np.ndarray:
    array = marked()
    array.setflags(write=False)
    return array


@pytest.mark.cpu
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((IDS, 6, 1), "mark takes 4 arguments, not 3"),
        ((IDS, 6, 1, marked(), 5), "mark takes 4 arguments, not 5"),
        (
            (IDS.astype(np.float32), 6, 1, marked()),
            "argument 0: the array holds float32, and the kernel reads int32 or int64",
        ),
        ((IDS.astype(">i4"), 6, 1, marked()), "argument 0: the array holds >i4"),
        ((IDS, 6, 1, marked(np.int64)), "argument 3: the array holds int64, and the kernel reads int32"),
        ((IDS[::2], 3, 1, marked()), "argument 0: the array is not contiguous"),
        ((list(IDS), 6, 1, marked()), "argument 0: an array of int32 or int64 on the host lane is needed, not list"),
        ((IDS, 6, 1, 7), "argument 3: an array of int32 on the host lane is needed, not int"),
        ((IDS, 6, 1, read_only()), "argument 3: the kernel writes to this array, which is read-only"),
        ((IDS, 6.0, 1, marked()), "argument 1: 6.0 is no int64"),
        ((IDS, np.float64(6), 1, marked()), "is no int64"),
        ((IDS, "6", 1, marked()), "argument 1: '6' is no int64"),
        ((IDS, None, 1, marked()), "argument 1: None is no int64"),
        ((IDS, IDS, 1, marked()), "is no int64"),
        ((IDS, 2**63, 1, marked()), "argument 1: 9223372036854775808 does not fit int64"),
        ((IDS, 6, 2**31, marked()), "argument 2: 2147483648 does not fit int32"),
    ],
)
def test_a_wrong_call_is_refused_with_what_was_given(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(KernelError, match=re.escape(message)):
        NoMachine().launch(MARK, 6, *arguments)


@pytest.mark.cpu
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("2", 0.0, 1, 1, np.ones(1)), "argument 0: '2' is no float64"),
        ((2.0, 1e39, 1, 1, np.ones(1)), "argument 1: 1e+39 does not fit float32"),
        ((2.0, 1j, 1, 1, np.ones(1)), "argument 1: 1j is no float32"),
        ((2.0, 0.0, -1, 1, np.ones(1)), "argument 2: -1 does not fit uint8"),
        ((2.0, 0.0, 256, 1, np.ones(1)), "argument 2: 256 does not fit uint8"),
        ((2.0, 0.0, np.True_, 1, np.ones(1)), "is no uint8"),
    ],
)
def test_values_must_fit_their_type(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(KernelError, match=re.escape(message)):
        NoMachine().launch(SCALE, 1, *arguments)


@pytest.mark.cpu
def test_a_read_only_array_may_be_read() -> None:
    with pytest.raises(Refused):
        NoMachine().launch(MARK, 6, read_only(), 6, 1, marked())


@pytest.mark.cpu
def test_an_array_on_another_device_is_refused() -> None:
    class Elsewhere(NoMachine):
        def is_here(self, array: np.ndarray) -> bool:
            return array is not IDS

    with pytest.raises(KernelError, match="argument 0: the array lies on another device"):
        Elsewhere().launch(MARK, 6, IDS, 6, 1, marked())


@pytest.mark.cpu
@pytest.mark.parametrize("threads", [0, -3])
def test_no_threads_launch_nothing_and_are_checked_all_the_same(threads: int) -> None:
    on = NoMachine()
    on.launch(MARK, threads, IDS, 6, 1, marked())
    assert on.launches["mark"] == 0
    with pytest.raises(KernelError):
        on.launch(MARK, threads, IDS, 6, 1, None)


@pytest.mark.cpu
@pytest.mark.parametrize(
    ("parameters", "types", "message"),
    [
        (("const int16*",), (), "parameter 'const int16*': unknown type int16"),
        (("Size*",), ("Size",), "unknown type Size"),
        (("Index*",), (), "arrays tell ['Index']"),
        (("Index", "int64*"), ("Index",), "arrays tell []"),
        (("int64*",), ("Real",), "its parameters use []"),
    ],
)
def test_a_declaration_that_no_call_can_meet_is_refused(
    parameters: tuple[str, ...], types: tuple[str, ...], message: str
) -> None:
    with pytest.raises(KernelError, match=re.escape(message)):
        LocalProgram("wrong.cu", "").kernel("wrong", *parameters, types=types)


@pytest.mark.host
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_arrays_choose_the_instantiation(dtype: type) -> None:
    on, result = NumpyAccelerator(), marked(dtype)
    on.launch(MARK, 6, IDS.astype(dtype)[::2].copy(), 3, np.iinfo(dtype).max, result)
    most = np.iinfo(dtype).max
    assert result.tolist() == [most, 0, most, 0, most, 0]


@pytest.mark.host
def test_values_arrive_as_declared() -> None:
    on, values = NumpyAccelerator(), np.array([1.0, 2.0])
    on.launch(SCALE, 2, np.float32(0.5), 0.1, True, 2, values)
    assert values.tolist() == [0.5 + np.float64(np.float32(0.1)), 1.0 + np.float64(np.float32(0.1))]


@pytest.mark.host
@pytest.mark.parametrize(
    ("threads", "asked", "blocks"),
    [(1, None, 1), (96, None, 1), (97, None, 2), (10**12, None, 5), (10**12, 3, 3), (1, 9, 9)],
)
def test_the_grid_covers_the_threads_up_to_what_the_machine_keeps_in_flight(
    threads: int, asked: int | None, blocks: int
) -> None:
    on, found, block = NumpyAccelerator(resident_threads=500), np.zeros(1, np.uint32), np.zeros(1, np.uint32)
    on.launch(GRID, threads, found, block, blocks=asked)
    assert (int(found[0]), int(block[0])) == (blocks, 96)


@pytest.mark.host
def test_a_block_larger_than_the_machine_still_runs() -> None:
    found, block = np.zeros(1, np.uint32), np.zeros(1, np.uint32)
    NumpyAccelerator(resident_threads=8).launch(GRID, 10**6, found, block)
    assert found[0] == 1


@pytest.mark.host
@pytest.mark.parametrize(
    "declared",
    [
        ("const int32*", "int64", "int32"),
        ("int32*", "int64", "int32*"),
        ("const int32*", "int32", "int32*"),
        ("const int32*", "uint64", "int32*"),
        ("const int32*", "int64", "const int32*"),
        ("const int32*", "int64", "float32*"),
        ("const int32*", "int64"),
    ],
)
def test_a_declaration_that_the_kernel_contradicts_is_refused(declared: tuple[str, ...]) -> None:
    program = LocalProgram("copy.cu", "__global__ void copy(const int* from, long long items, int* to) {}\n")
    program.kernel("copy", *declared)
    with pytest.raises(
        KernelError, match=re.escape("copy takes ['const int32*', 'int64', 'int32*'], and Python declares")
    ):
        NumpyAccelerator().warm(program)


@pytest.mark.host
def test_a_kernel_that_the_file_lacks_is_refused() -> None:
    program = LocalProgram("none.cu", "__global__ void some(int* to) {}\n")
    program.kernel("other", "int32*")
    with pytest.raises(KernelError, match="other"):
        NumpyAccelerator().warm(program)


@pytest.mark.cpu
def test_the_text_of_a_program_holds_common_cuh_and_says_where_each_line_is_from() -> None:
    common = (resources.files("ouroflow.kernels") / "common.cuh").read_text(encoding="utf-8")
    assert common in PROGRAM.source and '#include "' not in PROGRAM.source
    place: tuple[str, int] | None = None
    found = {}
    for line in PROGRAM.source.splitlines():
        if directive := re.fullmatch(r'#line (\d+) "(.+)"', line):
            place = directive[2], int(directive[1])
        elif place is not None:
            found[place] = line
            place = place[0], place[1] + 1
    for name, text in (("marks.cu", TEXT), ("common.cuh", common)):
        for number, line in enumerate(text.splitlines(), start=1):
            assert line.startswith('#include "') or found[name, number] == line


@pytest.mark.host
@pytest.mark.parametrize(("broken", "place"), [("common.cuh", "common.cuh:1:"), ("uses.cu", "uses.cu:3:")])
def test_a_compile_error_names_the_file_and_line(broken: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = LocalProgram("uses.cu", '// uses it\n#include "common.cuh"\n__global__ void none() {}\n')
    program.kernel("none")
    texts = {"uses.cu": program.text, "common.cuh": "// shared\n"}
    texts[broken] = (
        texts[broken].replace("// shared", "int broken = ;").replace("none() {}", "none() { int broken = ; }")
    )
    monkeypatch.setattr(program, "read", texts.__getitem__)
    with pytest.raises(KernelError, match=re.escape(place)):
        NumpyAccelerator().warm(program)


@pytest.mark.cpu
def test_a_stage_that_cannot_fit_is_refused_with_both_figures() -> None:
    on = NoMachine(memory=3_000_000)
    on.require(3_000_000, "10 flows")
    with pytest.raises(ResourceError, match="10 flows take 5 MB of device memory, and 3 MB are free on the host lane"):
        on.require(5_000_000, "10 flows")


@pytest.mark.cpu
def test_without_cupy_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ResourceError, match="CuPy cannot be imported") as refused:
        Cuda()
    assert refused.value.exit_code == 4


@pytest.mark.cpu
def test_every_kernel_file_and_function_is_declared() -> None:
    files = [entry for entry in resources.files("ouroflow.kernels").iterdir() if entry.name.endswith(".cu")]
    declared = {program.file: sorted(kernel.name for kernel in program.kernels) for program in programs()}
    functions = re.compile(
        r"__global__\s+(?:void\s+__launch_bounds__\(.*?\)|__launch_bounds__\(.*?\)\s+void|void)\s+(\w+)"
    )
    defined = {entry.name: sorted(functions.findall(entry.read_text(encoding="utf-8"))) for entry in files}
    assert declared == defined
