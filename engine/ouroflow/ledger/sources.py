"""Where payments come from: files, folders, globs, URLs, data frames and graphs, all read as Arrow batches of chosen columns."""

from __future__ import annotations

import bz2
import codecs
import csv
import glob
import gzip
import hashlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from ouroflow.errors import InputError, UsageError
from ouroflow.ledger.schema import InputFile

BATCH_ROWS = 1 << 17
_SNIFF_BYTES = 1 << 20
_ENDINGS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".arrows": "arrow",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
}
_PACKED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
# What goes wrong inside a file of any kind; everything else is a defect of ours and must not be hidden.
_BROKEN = (pa.ArrowException, OSError, EOFError, ValueError, KeyError, UnicodeDecodeError)


@dataclass
class Source:
    """One table of payments that can be read batch by batch.

    Attributes
    ----------
    path : str
        How messages call it.
    columns : list of str
        Its columns, in order.
    read : callable
        Takes the wanted columns, yields record batches of just these; every value of a CSV file is text.
    describe : callable
        Takes the number of rows read, returns the `InputFile` (the sha256 is computed beside the reading).
    rows : int or None
        Number of rows, where it is known before reading.
    headerless : bool
        The columns are named by position.
    notes : list of str
        What was found out about the file.
    ragged : list of (int, str)
        Rows with a wrong number of fields: number from 1 and text. Filled while reading.
    """

    path: str
    columns: list[str]
    read: Callable[[list[str]], Iterator[pa.RecordBatch]]
    describe: Callable[[int], InputFile]
    rows: int | None = None
    headerless: bool = False
    notes: list[str] = field(default_factory=list)
    ragged: list[tuple[int, str]] = field(default_factory=list)


def open_sources(source: Any) -> list[Source]:
    """Return the tables behind whatever the user gave.

    Raises
    ------
    InputError
        If nothing is there, or if it cannot be read as a table.
    UsageError
        If it is not a kind of thing that holds payments.
    """
    if isinstance(source, list | tuple):
        if not source:
            raise UsageError("no input was given: name a file, a folder or a bundled data set")
        return [table for part in source for table in open_sources(part)]
    if isinstance(source, str | os.PathLike):
        return [_open_file(path) for path in _paths(os.fspath(source))]
    return [_open_frame(source)]


# --- paths ----------------------------------------------------------------------------------------------------------------


def _paths(name: str) -> list[str]:
    if "\0" in name or not name:
        raise InputError("the name of an input is empty or holds a zero byte; name a file, a folder or a bundled data set")
    if "://" in name:
        return _remote_paths(name)
    if os.path.isdir(name):
        found = sorted(str(path) for path in Path(name).rglob("*") if path.is_file() and _kind(path.name) is not None)
        found = [path for path in found if not any(part.startswith((".", "_")) for part in Path(path).relative_to(name).parts)]
        if not found:
            raise InputError(f"{name}: the folder holds no Parquet, CSV or Arrow file")
        return found
    if os.path.exists(name):
        return [name]
    if glob.has_magic(name):
        found = sorted(path for path in glob.glob(name, recursive=True) if os.path.isfile(path))
        if not found:
            raise InputError(f"{name}: no file matches")
        return found
    from ouroflow.assets import dataset_names

    raise InputError(f"{name}: no such file or folder, and no bundled data set of that name ({', '.join(dataset_names())})")


def _remote_paths(url: str) -> list[str]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
        protocol = url.partition("://")[0]
        if glob.has_magic(path):
            names = sorted(system.glob(path))
        elif system.isdir(path):
            names = sorted(name for name in system.find(path) if _kind(name) is not None)
        else:
            names = [path] if system.exists(path) else []
    except (ImportError, ValueError, OSError) as error:
        raise InputError(f"{url}: cannot be opened ({error}); object stores need their fsspec package (s3fs, gcsfs, adlfs)") from error
    if not names:
        raise InputError(f"{url}: nothing is there that can be read")
    return [f"{protocol}://{name.lstrip('/') if protocol not in ('file', 'memory') else name}" for name in names]


def _kind(name: str) -> str | None:
    stem, ending = os.path.splitext(name.lower())
    if ending in _PACKED:
        ending = os.path.splitext(stem)[1]
        return "csv" if ending in ("", *(e for e, kind in _ENDINGS.items() if kind == "csv")) else None
    return _ENDINGS.get(ending)


# --- files ----------------------------------------------------------------------------------------------------------------


def _open_file(path: str) -> Source:
    kind = _kind(path)
    try:
        with _open(path) as file:
            head = file.read(8)
        if not head:
            raise InputError(f"{path}: the file is empty (0 bytes)")
        if head[:4] == b"PAR1":
            kind = "parquet"
        elif head[:6] == b"ARROW1" or head[:4] == b"\xff\xff\xff\xff":
            kind = "arrow"
        elif kind in ("parquet", "arrow"):
            raise InputError(f"{path}: the name says {kind}, the content does not; it may be cut off or renamed")
        if kind is None:
            kind = "csv"
        return {"parquet": _open_parquet, "arrow": _open_arrow, "csv": _open_csv}[kind](path)
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(f"{path}: may not be read ({error.strerror}); check its permissions") from error
    except _BROKEN as error:
        raise _cannot_read(path, error) from error


def _open(path: str) -> Any:
    if "://" in path:
        import fsspec

        return fsspec.open(path, "rb").open()
    return open(path, "rb")


def _cannot_read(path: str, error: Exception) -> InputError:
    said = re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
    return InputError(f"{path}: cannot be read as a table: {said}. The file may be damaged or cut off")


def _guarded(path: str, batches: Callable[[], Iterator[pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
    """Turn what breaks in the middle of a file into a message that names it."""
    try:
        yield from batches()
    except InputError:
        raise
    except _BROKEN as error:
        raise _cannot_read(path, error) from error


def _file_description(path: str) -> Callable[[int], InputFile]:
    """Hash a local file on a thread of its own while it is read; the sum is asked for when its rows are known."""
    if "://" in path:
        return lambda rows: _remote_description(path, rows)
    digest: list[str] = []

    def work() -> None:
        with open(path, "rb") as file:
            digest.append(hashlib.file_digest(file, "sha256").hexdigest())

    thread = threading.Thread(target=work, name="ouroflow-sha256", daemon=True)
    thread.start()

    def describe(rows: int) -> InputFile:
        thread.join()
        return InputFile(path, digest[0] if digest else None, os.path.getsize(path), rows)

    return describe


def _remote_description(path: str, rows: int) -> InputFile:
    import fsspec

    system, name = fsspec.core.url_to_fs(path)
    info = system.info(name)
    version = next((str(info[key]) for key in ("ETag", "etag", "generation", "LastModified", "created") if info.get(key)), None)
    return InputFile(path, None, info.get("size"), rows, version)


def _open_parquet(path: str) -> Source:
    file = pq.ParquetFile(_open(path) if "://" in path else path, pre_buffer="://" in path)
    columns = list(file.schema_arrow.names)

    def read(wanted: list[str]) -> Iterator[pa.RecordBatch]:
        return _guarded(path, lambda: file.iter_batches(BATCH_ROWS, columns=wanted))

    return Source(path, columns, read, _file_description(path), file.metadata.num_rows)


def _open_arrow(path: str) -> Source:
    handle = _open(path) if "://" in path else pa.memory_map(path)
    if handle.read(6) == b"ARROW1":
        handle.seek(0)
        file = pa.ipc.open_file(handle)
        batches: Callable[[], Iterator[pa.RecordBatch]] = lambda: (  # noqa: E731
            file.get_batch(k) for k in range(file.num_record_batches)
        )
    else:
        handle.seek(0)
        file = pa.ipc.open_stream(handle)
        batches = lambda: iter(file)  # noqa: E731
    columns = list(file.schema.names)

    def read(wanted: list[str]) -> Iterator[pa.RecordBatch]:
        return _guarded(path, lambda: (batch.select(wanted) for batch in batches()))

    return Source(path, columns, read, _file_description(path))


# --- CSV ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Dialect:
    encoding: str
    delimiter: str
    skipped: int
    header: list[str] | None
    columns: list[str]


def _open_csv(path: str) -> Source:
    notes: list[str] = []
    dialect = _sniff(path, notes)
    source = Source(path, dialect.columns, lambda wanted: iter(()), _file_description(path), headerless=dialect.header is None, notes=notes)

    def read(wanted: list[str]) -> Iterator[pa.RecordBatch]:
        return _guarded(path, lambda: _csv_batches(path, dialect, wanted, source.ragged))

    source.read = read
    return source


def _csv_batches(path: str, dialect: _Dialect, wanted: list[str], ragged: list[tuple[int, str]]) -> Iterator[pa.RecordBatch]:
    first_line = dialect.skipped + (0 if dialect.header is None else 1)

    def set_aside(row: Any) -> str:
        number = len(ragged) + 1 if row.number is None else row.number - first_line
        ragged.append((number, row.text))
        return "skip"

    text = _text_stream(path, dialect.encoding)
    reader = pacsv.open_csv(
        text,
        pacsv.ReadOptions(
            use_threads=False,
            block_size=8 << 20,
            skip_rows=dialect.skipped + (0 if dialect.header is None else 1),
            column_names=dialect.columns,
        ),
        pacsv.ParseOptions(
            delimiter=dialect.delimiter,
            newlines_in_values=True,
            ignore_empty_lines=True,
            invalid_row_handler=set_aside,
        ),
        pacsv.ConvertOptions(
            column_types=dict.fromkeys(dialect.columns, pa.string()),
            include_columns=wanted,
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
            null_values=[""],
        ),
    )
    yield from reader


def _bytes_stream(path: str) -> Any:
    ending = os.path.splitext(path.lower())[1]
    file = _open(path)
    if ending == ".gz":
        return gzip.GzipFile(fileobj=file)
    if ending == ".bz2":
        return bz2.BZ2File(file)
    if ending == ".zst":
        return pa.CompressedInputStream(file, "zstd")
    return file


def _text_stream(path: str, encoding: str) -> Any:
    """Return the content as UTF-8 bytes without a mark at the beginning."""
    stream = _bytes_stream(path)
    if encoding == "utf-8":
        return stream
    return pa.transcoding_input_stream(pa.PythonFile(stream) if not isinstance(stream, pa.NativeFile) else stream, encoding, "utf-8")


def _sniff(path: str, notes: list[str]) -> _Dialect:
    """Find encoding, delimiter, comment lines and header from the beginning of a file."""
    with _bytes_stream(path) as stream:
        head = stream.read(_SNIFF_BYTES)
    if not head.strip():
        raise InputError(f"{path}: the file holds no text")
    encoding = _encoding(path, head, notes)
    text = head.decode(encoding, errors="ignore").lstrip("\ufeff")
    lines = text.splitlines()
    if len(head) == _SNIFF_BYTES:
        lines = lines[:-1]
    skipped = next((k for k, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    if skipped == len(lines):
        raise InputError(f"{path}: no payments: the file holds comment lines only")
    if "\0" in text:
        raise InputError(f"{path}: the file holds zero bytes, so it is not a CSV file; give Parquet, CSV or Arrow")
    first = lines[skipped]
    delimiter = max(",\t;|", key=first.count)
    if first.count(delimiter) == 0:
        if len(first.split()) > 1:
            raise InputError(f"{path}: the first line is not divided by comma, tab, semicolon or bar: {first[:80]!r}")
        raise InputError(f"{path}: the first line holds one column only: {first[:80]!r}; payments need a payer and a payee")
    cells = [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter))]
    if skipped:
        notes.append(f"{path}: {skipped} comment lines are skipped")
    if all(_is_number(cell) for cell in cells):
        notes.append(f"{path}: no header line; columns are named by position")
        return _Dialect(encoding, delimiter, skipped, None, [f"column {k + 1}" for k in range(len(cells))])
    return _Dialect(encoding, delimiter, skipped, cells, _columns(path, cells))


def _columns(path: str, cells: Sequence[str]) -> list[str]:
    twice = sorted({cell for cell in cells if cells.count(cell) > 1 and cell})
    if twice:
        raise InputError(f"{path}: the header names {', '.join(map(repr, twice))} more than once; give every column its own name")
    return [cell or f"column {k + 1}" for k, cell in enumerate(cells)]


def _encoding(path: str, head: bytes, notes: list[str]) -> str:
    for mark, name in ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if head.startswith(mark):
            return name
    for name in ("utf-8", "cp949"):
        try:
            codecs.getincrementaldecoder(name)().decode(head, final=len(head) < _SNIFF_BYTES)
        except UnicodeDecodeError:
            continue
        if name != "utf-8":
            notes.append(f"{path}: not UTF-8; read as {name} (Korean Windows)")
        return name
    raise InputError(f"{path}: the text is neither UTF-8, UTF-16 nor cp949; convert it to UTF-8 (iconv -f ENCODING -t UTF-8)")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


# --- data frames ----------------------------------------------------------------------------------------------------------


def _open_frame(source: Any) -> Source:
    kind = type(source).__module__.partition(".")[0]
    name = f"{kind} {type(source).__name__}"
    if isinstance(source, pa.Table | pa.RecordBatch):
        table = pa.table(source) if isinstance(source, pa.RecordBatch) else source
    elif kind == "pandas" and "pandas" in sys.modules:
        try:
            table = pa.Table.from_pandas(source, preserve_index=False)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise InputError(f"{name}: a column holds mixed types: {error}; make each column of one type") from error
    elif kind == "polars" and "polars" in sys.modules:
        table = (source.collect() if hasattr(source, "collect") else source).to_arrow()
    elif kind == "networkx":
        table = _graph_table(source, name)
    else:
        raise UsageError(
            f"payments cannot be read from {type(source).__module__}.{type(source).__name__}; give a path, a pandas or Polars "
            "data frame, an Arrow table or a NetworkX graph"
        )
    columns = [str(column) for column in table.column_names]
    if len(set(columns)) < len(columns):
        _columns(name, columns)
    table = table.rename_columns(columns)

    def read(wanted: list[str]) -> Iterator[pa.RecordBatch]:
        return iter(table.select(wanted).to_batches(max_chunksize=BATCH_ROWS))

    return Source(name, columns, read, lambda rows: InputFile(name, None, None, rows), table.num_rows)


def _graph_table(graph: Any, name: str) -> pa.Table:
    if not graph.is_directed():
        raise InputError(f"{name}: payments have a direction; give a DiGraph or a MultiDiGraph")
    edges = list(graph.edges(data=True))
    if not edges:
        raise InputError(f"{name}: no payments: the graph has no edges")
    attribute = next((key for key in ("amount", "weight", "value") if any(key in data for *_, data in edges)), None)
    ends = [pa.array([edge[k] for edge in edges]) if _one_type([edge[k] for edge in edges]) else None for k in (0, 1)]
    if ends[0] is None or ends[1] is None or ends[0].type != ends[1].type:
        raise InputError(f"{name}: the nodes are of mixed types; make all of them text or all of them integers")
    columns: dict[str, Any] = {"payer": ends[0], "payee": ends[1]}
    if attribute is not None:
        try:
            columns["amount"] = pa.array([data.get(attribute) for *_, data in edges])
        except (pa.ArrowException, TypeError) as error:
            raise InputError(f"{name}: the edge attribute {attribute!r} is not a number everywhere: {error}") from error
    return pa.table(columns)


def _one_type(values: list[Any]) -> bool:
    kinds = {type(value) for value in values}
    return kinds == {str} or (all(issubclass(kind, int | np.integer) for kind in kinds) and bool not in kinds)
