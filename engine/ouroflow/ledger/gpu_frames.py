"""Data frames on a device: how cuDF reads pieces of files, and how its columns become arrays.

All that differs between cuDF and pandas is in `Frames`: `CudfFrames` here, and one of pandas in the tests, where cuDF has
no device to run on. Everything else is written against what both have.
"""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ouroflow.ledger.sources import _Dialect, _sniff

if TYPE_CHECKING:
    from ouroflow.runtime.launch import Accelerator, Array

Column = Any
"""A column of a data frame (``Series``)."""
Frame = Any
"""A data frame."""

WORKING_COPIES = 8
"""What a piece takes while it is read and encoded, in multiples of its columns: copies, hash tables, codes."""
TEXT_BYTES = 24
"""What a text is taken to be before the first piece has told: Parquet says only how large its dictionary codes are."""
CODE_BYTES = 16
"""What a row takes beside its columns, before that multiple: its codes and where they stand."""
MOST_PIECE_BYTES = 2**31 - 1
"""No larger piece: texts of 2 GiB and more are of another Arrow type."""
LEAST_PIECE_BYTES = 1 << 12
LONGEST_LINE = 1 << 20
"""A longer line of a CSV file is left to the CPU, which knows what to say about it."""
NOT_PLAIN = (b"\x1f\x8b", b"BZh", b"\x28\xb5\x2f\xfd", b"ARROW1", b"\xff\xff\xff\xff")
"""How packed files and Arrow files begin."""


class LeftToCpu(Exception):
    """The device does not read this input, and why: the CPU twin does, and knows the message if one is due."""


class Frames(ABC):
    """A data-frame library on an accelerator.

    Attributes
    ----------
    module : module
        With pandas' interface.
    name : str
        What people call it, with its version.
    """

    module: Any
    name: str

    @abstractmethod
    def read_row_groups(self, path: str, columns: Sequence[str], groups: Sequence[int]) -> Frame:
        """Read some row groups of a Parquet file."""

    @abstractmethod
    def array(self, values: Column) -> Array:
        """Return a column of numbers without nulls, or an array of the library, as an array; without a copy."""

    @abstractmethod
    def unscaled(self, column: Column) -> Array:
        """Return the integers behind decimals without nulls: int64 words, lowest first, of shape (rows, 1 or 2)."""

    @abstractmethod
    def on_host(self, column: Column) -> pa.Array:
        """Copy a column to the host."""

    def read_lines(self, text: bytes, dialect: _Dialect, columns: Sequence[str]) -> Frame:
        """Read whole lines of a CSV file without quotes; every value is text, and what is empty is empty text."""
        return self.module.read_csv(
            io.BytesIO(text),
            sep=dialect.delimiter,
            header=None,
            names=dialect.columns,
            usecols=list(columns),
            dtype="str",
            na_filter=False,
            compression=None,
        )

    def number_of_bytes(self, frame: Frame) -> int:
        """Return the memory of the columns of a frame."""
        return int(frame.memory_usage(index=False, deep=True).sum())


class CudfFrames(Frames):
    """cuDF.

    Raises
    ------
    LeftToCpu
        If cuDF cannot be imported.
    """

    def __init__(self) -> None:
        try:
            import cudf
            import cupy
        except (ImportError, RuntimeError) as error:  # RuntimeError: it is installed for another driver
            raise LeftToCpu(f"cuDF cannot be imported ({error}); ouroflow[cu12] and ouroflow[cu13] bring it") from error
        self.module, self._cupy = cudf, cupy
        self.name = f"cuDF {cudf.__version__}"

    def read_row_groups(self, path: str, columns: Sequence[str], groups: Sequence[int]) -> Frame:
        """Read on the device."""
        return self.module.read_parquet(
            path,
            columns=list(columns),
            row_groups=list(groups),
            use_pandas_metadata=False,
            dataset_kwargs={"partitioning": None},  # or a folder named year=2025 would become a column
        )

    def array(self, values: Column) -> Array:
        """Return the device memory of the column itself."""
        return self._cupy.asarray(values.values if isinstance(values, self.module.Series) else values)

    def unscaled(self, column: Column) -> Array:
        """Return the device memory of the decimals; those of 32 bits widened."""
        raw, _ = column.to_pylibcudf()
        width = column.dtype.itemsize
        data = self._cupy.asarray(raw.data()).view(np.uint8)
        data = data[raw.offset() * width : (raw.offset() + raw.size()) * width]
        if width == 4:
            return data.view(np.int32).astype(np.int64).reshape(-1, 1)
        return data.view(np.int64).reshape(-1, width // 8)

    def on_host(self, column: Column) -> pa.Array:
        """Copy to the host."""
        return column.to_arrow()


@dataclass(frozen=True)
class LocalFile:
    """A file that a device may read.

    Attributes
    ----------
    path : str
    types : dict of str to pyarrow.DataType
        Of the wanted columns: text for all of a CSV file.
    parquet : bool
        Else it is CSV.
    """

    path: str
    types: dict[str, pa.DataType]
    parquet: bool

    @classmethod
    def of(cls, path: str, columns: Sequence[str]) -> LocalFile:
        """Look at a file.

        Raises
        ------
        LeftToCpu
            If it is no local file, packed, or neither Parquet nor CSV.
        """
        if not os.path.isfile(path):
            raise LeftToCpu(f"{path} is no local file")
        with open(path, "rb") as file:
            head = file.read(8)
        if head.startswith(NOT_PLAIN):
            raise LeftToCpu(f"{path} is packed or an Arrow file")
        if head[:4] != b"PAR1":
            return cls(path, dict.fromkeys(columns, pa.string()), parquet=False)
        with pq.ParquetFile(path) as parquet:
            schema = parquet.schema_arrow
        return cls(path, {column: _value_type(schema.field(column).type) for column in columns}, parquet=True)

    def pieces(self, on: Accelerator, frames: Frames, taken: Callable[[], int]) -> Iterator[tuple[Frame, int]]:
        """Read the file piece by piece, each so small that it can be worked on in the free device memory.

        Parameters
        ----------
        on : Accelerator
        frames : Frames
        taken : callable
            How much of the free memory is needed for something else while a piece is worked on; asked before each.

        Yields
        ------
        frame : data frame
            With the wanted columns.
        rows : int
            At least 1.

        Raises
        ------
        LeftToCpu
            If the file is not laid out plainly, or if a single row group is too large.
        """

        def free() -> int:
            return max(on.free_bytes() - taken(), 0)

        if self.parquet:
            return _parquet_pieces(frames, self, free)
        return _csv_pieces(on, frames, self, free)


def _value_type(kind: pa.DataType) -> pa.DataType:
    """Return what a column holds, whether it is packed in a dictionary or not."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _read(frames: Frames, path: str, rows: int, read: Callable[..., Frame], *arguments: Any) -> Frame:
    """Let the library read so many rows; what it cannot read is left to the CPU.

    Raises
    ------
    LeftToCpu
        In place of any error of the library: it has its own for every kind of damage, feature and shortage.
    """
    try:
        frame = read(*arguments)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, OverflowError, MemoryError, OSError) as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise LeftToCpu(f"{frames.name} cannot read {path}: {said}") from error
    if len(frame) != rows:
        raise LeftToCpu(f"{frames.name} finds {len(frame):,} rows where {path} has {rows:,}")
    return frame


def _parquet_pieces(frames: Frames, file: LocalFile, free: Callable[[], int]) -> Iterator[tuple[Frame, int]]:
    """Read as many row groups at once as fit."""
    path, columns = file.path, list(file.types)
    metadata = pq.read_metadata(path)
    groups = [_row_group(metadata.row_group(number), file.types) for number in range(metadata.num_row_groups)]
    width, first = 0.0, 0
    while first < len(groups):
        room = free()
        end, needed, rows = first, 0.0, 0
        while end < len(groups):
            grown = needed + max(groups[end][1], width * groups[end][0])
            # The first row group is read alone, for it tells how long the texts are.
            if grown * WORKING_COPIES > room or (end > first and (first == 0 or grown > MOST_PIECE_BYTES)):
                break
            end, needed, rows = end + 1, grown, rows + groups[end][0]
        if end == first:
            raise LeftToCpu(
                f"row group {first} of {path} takes about {grown * WORKING_COPIES / 1e6:,.1f} MB of device memory to read, "
                f"and {room / 1e6:,.1f} MB are free"
            )
        if rows:
            frame = _read(frames, path, rows, frames.read_row_groups, path, columns, range(first, end))
            width = max(width, frames.number_of_bytes(frame) / rows + CODE_BYTES)
            yield frame, rows
            del frame  # before the next is read
        first = end


def _row_group(group: pq.RowGroupMetaData, types: dict[str, pa.DataType]) -> tuple[int, int]:
    """Return the rows of a row group, and about how many bytes its wanted columns take when they are unpacked."""
    stored = {
        chunk.path_in_schema: chunk.total_uncompressed_size
        for chunk in (group.column(place) for place in range(group.num_columns))
    }
    total = CODE_BYTES * group.num_rows
    for column, kind in types.items():
        width = 16 if pa.types.is_decimal(kind) else 8 if pa.types.is_primitive(kind) else TEXT_BYTES
        total += max(stored.get(column, 0), width * group.num_rows)
    return group.num_rows, total


def _csv_pieces(
    on: Accelerator, frames: Frames, file: LocalFile, free: Callable[[], int]
) -> Iterator[tuple[Frame, int]]:
    """Read lines of plain text: UTF-8, no quotes, as many fields in every line as in the header."""
    path, columns = file.path, list(file.types)
    dialect = _sniff(path, [])
    if dialect.encoding != "utf-8" or dialect.empty:
        raise LeftToCpu(f"{path} is not plain UTF-8 text with rows")
    with open(path, "rb") as stream:
        header = b"".join(stream.readline() for _ in range(dialect.skipped))
        if header[:3] == b"\xef\xbb\xbf" or not _is_plain(header):
            raise LeftToCpu(f"{path} does not begin with plain lines of text")
        rest = b""
        while block := stream.read(_line_bytes(free())):
            whole, newline, rest = (rest + block).rpartition(b"\n")
            if len(rest) > LONGEST_LINE:
                raise LeftToCpu(f"{path} has a very long line")
            if newline:
                yield from _lines(on, frames, path, dialect, whole, columns)
        yield from _lines(on, frames, path, dialect, rest, columns)


def _line_bytes(free: int) -> int:
    """Return how much of a CSV file to read at once: the text itself lies beside its columns."""
    return min(max(free // (2 * WORKING_COPIES), LEAST_PIECE_BYTES), MOST_PIECE_BYTES // 4)


def _lines(
    on: Accelerator, frames: Frames, path: str, dialect: _Dialect, text: bytes, columns: Sequence[str]
) -> Iterator[tuple[Frame, int]]:
    """Read some lines, once it is sure that every reader of CSV divides them alike."""
    text = text.rstrip(b"\n")  # blank lines are none
    if not text:
        return
    text += b"\n"
    if not _is_plain(text):
        raise LeftToCpu(f"{path} has quotes, carriage returns, zero bytes or what is not UTF-8")
    rows = _rows_of_fields(on, text, dialect, path)
    yield _read(frames, path, rows, frames.read_lines, text, dialect, columns), rows


def _is_plain(text: bytes) -> bool:
    if b'"' in text or b"\r" in text or b"\0" in text:
        return False
    whole = [None, pa.py_buffer(np.array([0, len(text)])), pa.py_buffer(text)]
    try:
        pa.Array.from_buffers(pa.large_string(), 1, whole).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _rows_of_fields(on: Accelerator, text: bytes, dialect: _Dialect, path: str) -> int:
    """Return the number of lines, if each of them has one field for each column."""
    xp = on.xp
    data = on.to_device(np.frombuffer(text, np.uint8))
    ends, marks = xp.flatnonzero(data == ord("\n")), xp.flatnonzero(data == ord(dialect.delimiter))
    rows, each = len(ends), len(dialect.columns) - 1
    before = xp.searchsorted(marks, ends)
    if len(marks) != rows * each or not bool((before == each * xp.arange(1, rows + 1)).all()):
        raise LeftToCpu(f"{path} has lines with a wrong number of fields")
    if int(xp.diff(ends, prepend=-1).max()) > LONGEST_LINE:
        raise LeftToCpu(f"{path} has a very long line")
    return rows
