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
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from ouroflow.errors import InputError, UsageError
from ouroflow.ledger.schema import InputFile

BATCH_ROWS = 1 << 17
_SNIFF_BYTES = 1 << 20
_BLOCK_BYTES = 8 << 20
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
_PACKED = (".gz", ".zst", ".bz2")
# What goes wrong inside a file of any kind; everything else is a defect of ours and must not be hidden.
_BROKEN = (pa.ArrowException, OSError, EOFError, ValueError, KeyError, zlib.error)
_NO_TABLE = {
    b"PK\x03\x04": "a ZIP archive or a workbook; export the sheet as CSV, or unpack the archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; export the sheet as CSV",
    b"%PDF": "a PDF document",
    b"SQLi": "an SQLite database; export the table as CSV or Parquet",
}


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
        raise InputError(
            "the name of an input is empty or holds a zero byte; name a file, a folder or a bundled data set"
        )
    if "://" in name:
        return _remote_paths(name)
    if os.path.isdir(name):
        return _files_of_folder(name)
    if os.path.exists(name):
        return [name]
    if glob.has_magic(name):
        found = sorted(path for path in glob.glob(name, recursive=True) if os.path.isfile(path))
        if not found:
            raise InputError(f"{name}: no file matches")
        return found
    from ouroflow.assets import dataset_names

    if name in dataset_names():
        raise UsageError(f"{name} is a bundled data set with settings of its own: give it alone, to analyze")
    raise InputError(
        f"{name}: no such file or folder, and no bundled data set of that name ({', '.join(dataset_names())})"
    )


def _is_result(folder: str) -> bool:
    """Tell whether a folder was written by ouroflow: its tables are results, not payments."""
    return all(os.path.isfile(os.path.join(folder, file)) for file in ("run.json", "summary.json", "companies.parquet"))


def _files_of_folder(name: str) -> list[str]:
    """Return the tables in a folder and the folders in it; names that begin with . or _ are the notes of other programs."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: may not be read ({error.strerror}); check its permissions") from error

    if _is_result(name):
        raise InputError(
            f"{name}: this folder is a result of ouroflow, not payments; see ouroflow trace and ouroflow verify"
        )
    found = []
    for folder, folders, files in os.walk(name, onerror=refuse):
        folders[:] = [
            inner
            for inner in folders
            if not inner.startswith((".", "_")) and not _is_result(os.path.join(folder, inner))
        ]
        found += [os.path.join(folder, file) for file in files if not file.startswith((".", "_")) and _kind(file)]
    if not found:
        raise InputError(f"{name}: the folder holds no Parquet, CSV or Arrow file")
    return sorted(found)


def _remote_paths(url: str) -> list[str]:
    import fsspec

    protocol = url.partition("://")[0]
    try:
        system, path = fsspec.core.url_to_fs(url)
        if glob.has_magic(path):
            names = sorted(system.glob(path))
        elif system.isdir(path):
            names = sorted(name for name in system.find(path) if _kind(name) is not None)
        else:
            names = [path] if system.exists(path) else []
    except Exception as error:  # whatever the package of an object store raises
        advice = "object stores need their fsspec package (s3fs, gcsfs, adlfs) and credentials"
        raise InputError(f"{url}: cannot be opened ({_one_line(error)}); {advice}") from error
    if not names:
        raise InputError(f"{url}: nothing is there that can be read")
    return [f"{protocol}://{name if protocol in ('file', 'memory') else name.lstrip('/')}" for name in names]


def _kind(name: str) -> str | None:
    stem, ending = os.path.splitext(name.lower())
    if ending in _PACKED:
        return "csv" if _ENDINGS.get(os.path.splitext(stem)[1], "csv") == "csv" else None
    return _ENDINGS.get(ending)


# --- files ----------------------------------------------------------------------------------------------------------------


def _open_file(path: str) -> Source:
    try:
        with _open(path) as file:
            head = file.read(8)
        if not head:
            raise InputError(f"{path}: the file is empty (0 bytes)")
        if head[:4] in _NO_TABLE:
            raise InputError(f"{path}: this is {_NO_TABLE[head[:4]]}")
        if head[:4] == b"PAR1":
            return _open_parquet(path)
        if head[:6] == b"ARROW1" or head[:4] == b"\xff\xff\xff\xff":
            return _open_arrow(path)
        kind = _kind(path)
        if kind in ("parquet", "arrow"):
            raise InputError(f"{path}: the name says {kind}, the content does not; it may be cut off or renamed")
        return _open_csv(path)
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(f"{path}: may not be read ({error.strerror}); check its permissions") from error
    except _BROKEN as error:
        raise cannot_read(path, error) from error


def _open(path: str) -> Any:
    if "://" in path:
        import fsspec

        return fsspec.open(path, "rb").open()
    return open(path, "rb")


def _one_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error)).strip()[:300] or type(error).__name__


def cannot_read(path: str, error: Exception) -> InputError:
    """Return the message for a file that breaks while it is read."""
    said = _one_line(error)
    if isinstance(error, UnicodeDecodeError) or "invalid utf8" in said.lower():
        return InputError(
            f"{path}: holds bytes that are no text: {said}. Convert it to UTF-8 (iconv -f ENCODING -t UTF-8)"
        )
    if "straddl" in said:
        return InputError(f"{path}: one row is longer than {_BLOCK_BYTES >> 20} MB; a quote may not be closed")
    return InputError(f"{path}: cannot be read as a table: {said}. The file may be damaged or cut off")


def _guarded(path: str, batches: Callable[[], Iterator[pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
    """Turn what breaks in the middle of a file into a message that names it."""
    try:
        yield from batches()
    except InputError:
        raise
    except _BROKEN as error:
        raise cannot_read(path, error) from error


class _Description:
    """Size and sha256 of a local file, hashed on a thread of its own while the file is read."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._sha256: str | None = None
        self._bytes: int | None = None
        self._error: OSError | None = None
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Begin to hash: only one file at a time is read, and only that one is hashed."""
        if "://" not in self._path:
            self._thread = threading.Thread(target=self._hash, name="ouroflow-sha256", daemon=True)
            self._thread.start()

    def _hash(self) -> None:
        try:
            with open(self._path, "rb") as file:
                self._sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                self._bytes = file.tell()
        except OSError as error:
            self._error = error

    def __call__(self, rows: int) -> InputFile:
        """Return the description once the number of rows is known."""
        if self._thread is None:
            return _remote_description(self._path, rows)
        self._thread.join()
        if self._error is not None:
            raise cannot_read(self._path, self._error) from self._error
        return InputFile(self._path, self._sha256, self._bytes, rows)


def _remote_description(path: str, rows: int) -> InputFile:
    import fsspec

    system, name = fsspec.core.url_to_fs(path)
    info = system.info(name)
    version = next(
        (str(info[key]) for key in ("ETag", "etag", "generation", "LastModified", "created") if info.get(key)), None
    )
    return InputFile(path, None, info.get("size"), rows, version)


def _file_source(
    path: str, columns: list[str], batches: Callable[[list[str]], Iterator[pa.RecordBatch]], **known: Any
) -> Source:
    """Return a source that is opened again when its turn comes: a folder may hold more files than may be open at once."""
    describe = _Description(path)

    def read(wanted: list[str]) -> Iterator[pa.RecordBatch]:
        describe.begin()
        return _guarded(path, lambda: batches(wanted))

    return Source(path, columns, read, describe, **known)


def _open_parquet(path: str) -> Source:
    def opened() -> pq.ParquetFile:
        return pq.ParquetFile(_open(path) if "://" in path else path, pre_buffer="://" in path)

    def batches(wanted: list[str]) -> Iterator[pa.RecordBatch]:
        with opened() as file:
            yield from file.iter_batches(BATCH_ROWS, columns=wanted)

    with opened() as file:
        columns, rows = _columns(path, file.schema_arrow.names), file.metadata.num_rows
    return _file_source(path, columns, batches, rows=rows)


def _open_arrow(path: str) -> Source:
    def batches(wanted: list[str]) -> Iterator[pa.RecordBatch]:
        with _open(path) if "://" in path else pa.memory_map(path) as handle:
            for batch in _arrow_batches(handle)[1]:
                batch.validate(full=True)  # Arrow trusts the offsets of a file, and a damaged one must not be trusted
                chosen = batch.select(wanted)
                for start in range(0, chosen.num_rows, BATCH_ROWS):
                    yield chosen.slice(start, BATCH_ROWS)

    with _open(path) if "://" in path else pa.memory_map(path) as handle:
        names = _arrow_batches(handle)[0]
    return _file_source(path, _columns(path, names), batches)


def _arrow_batches(handle: Any) -> tuple[list[str], Iterator[pa.RecordBatch]]:
    """Return columns and batches of an Arrow file or an Arrow stream."""
    head = handle.read(6)
    handle.seek(0)
    if head != b"ARROW1":
        stream = pa.ipc.open_stream(handle)
        return list(stream.schema.names), iter(stream)
    file = pa.ipc.open_file(handle)
    return list(file.schema.names), (file.get_batch(number) for number in range(file.num_record_batches))


# --- CSV ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Dialect:
    """How to read a CSV file.

    Attributes
    ----------
    encoding, delimiter : str
    skipped : int
        Lines before the first row: comments, blank lines and the header.
    headerless : bool
    columns : list of str
    empty : bool
        There is nothing after the header.
    """

    encoding: str
    delimiter: str
    skipped: int
    headerless: bool
    columns: list[str]
    empty: bool


class _Tail:
    """A stream of bytes that remembers how it ended."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.closed = False
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._stream.read(size)
        self.last = data[-64:].rstrip(b"\r\n")[-1:] or self.last
        return data

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True
        self._stream.close()


def _open_csv(path: str) -> Source:
    notes: list[str] = []
    ragged: list[tuple[int, str]] = []
    dialect = _sniff(path, notes)

    def batches(wanted: list[str]) -> Iterator[pa.RecordBatch]:
        return iter(()) if dialect.empty else _csv_batches(path, dialect, wanted, ragged)

    return _file_source(path, dialect.columns, batches, headerless=dialect.headerless, notes=notes, ragged=ragged)


def _csv_batches(
    path: str, dialect: _Dialect, wanted: list[str], ragged: list[tuple[int, str]]
) -> Iterator[pa.RecordBatch]:
    def set_aside(row: Any) -> str:
        # Arrow counts rows, not lines, but begins with the lines that it was told to skip.
        ragged.append((row.number - dialect.skipped, row.text))
        return "skip"

    stream = _text_stream(path, dialect.encoding)
    last = dialect.columns[-1]
    try:
        reader = pacsv.open_csv(
            pa.PythonFile(stream, "r"),
            pacsv.ReadOptions(
                use_threads=False, block_size=_BLOCK_BYTES, skip_rows=dialect.skipped, column_names=dialect.columns
            ),
            pacsv.ParseOptions(
                delimiter=dialect.delimiter,
                newlines_in_values=True,
                ignore_empty_lines=True,
                invalid_row_handler=set_aside,
            ),
            pacsv.ConvertOptions(
                column_types=dict.fromkeys(dialect.columns, pa.string()),
                include_columns=list(dict.fromkeys([*wanted, last])),
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
                null_values=[""],
            ),
        )
        final = None
        for batch in reader:
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield batch.slice(start, BATCH_ROWS).select(wanted)
            if batch.num_rows:
                final = batch.column(last)[-1].as_py()
        if final is not None and re.search(r"[\r\n]", final) and stream.last != b'"':
            raise InputError(
                f"{path}: the quote that opens the last value is never closed, so rows may be hidden in it: {final[:80]!r}"
            )
    finally:
        stream.close()


def _bytes_stream(path: str) -> Any:
    """Open a file, unpacked if its content is packed, whatever its name says."""
    file = _open(path)
    head = file.read(4)
    file.seek(0)
    if head[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=file)
    if head[:3] == b"BZh":
        return bz2.BZ2File(file)
    if head == b"\x28\xb5\x2f\xfd":
        return pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")
    return file


def _text_stream(path: str, encoding: str) -> _Tail:
    """Return the content as UTF-8 bytes."""
    stream = _bytes_stream(path)
    if encoding != "utf-8":
        stream = pa.transcoding_input_stream(pa.PythonFile(stream, "r"), encoding, "utf-8")
    return _Tail(stream)


def _beginning(path: str) -> bytes:
    """Return the first bytes of a file: `_SNIFF_BYTES`, fewer only if it has no more."""
    parts: list[bytes] = []
    missing = _SNIFF_BYTES
    with _bytes_stream(path) as stream:
        while missing and (part := stream.read(missing)):
            parts.append(part)
            missing -= len(part)
    return b"".join(parts)


def _sniff(path: str, notes: list[str]) -> _Dialect:
    """Find encoding, delimiter, comment lines and header from the beginning of a file."""
    head = _beginning(path)
    if not head.strip():
        raise InputError(f"{path}: the file holds no text")
    encoding = _encoding(path, head, notes)
    text = head.decode(encoding, errors="ignore").lstrip("\ufeff")
    if "\0" in text:
        raise InputError(f"{path}: the file holds zero bytes, so it is not a CSV file; give Parquet, CSV or Arrow")
    lines = re.split(r"\r\n|\r|\n", text)
    skipped = next((k for k, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    if skipped == len(lines):
        raise InputError(f"{path}: no payments: the file holds comment lines only")
    whole = len(head) < _SNIFF_BYTES
    if skipped == len(lines) - 1 and not whole:
        raise InputError(f"{path}: the first line is longer than {_SNIFF_BYTES >> 20} MB, so it is no header")
    delimiter = _delimiter(path, lines[skipped])
    try:
        reader = csv.reader((line + "\n" for line in lines[skipped:]), delimiter=delimiter)
        cells = [cell.strip() for cell in next(reader)]
    except csv.Error as error:
        raise InputError(f"{path}: the header cannot be read: {error}") from error
    comments = sum(line.startswith("#") for line in lines[:skipped])
    if comments:
        notes.append(f"{path}: {comments} comment line{'s are' if comments > 1 else ' is'} skipped")
    if all(_is_number(cell) for cell in cells):
        notes.append(f"{path}: no header line; columns are named by position")
        return _Dialect(encoding, delimiter, skipped, True, [f"column {k + 1}" for k in range(len(cells))], False)
    skipped += reader.line_num  # a quoted name may take several lines
    empty = whole and not "".join(lines[skipped:]).strip()
    return _Dialect(encoding, delimiter, skipped, False, _columns(path, cells), empty)


def _delimiter(path: str, first: str) -> str:
    plain = re.sub(r'"[^"]*"', "", first)
    delimiter = max(",\t;|", key=plain.count)
    if plain.count(delimiter) == 0:
        if len(first.split()) > 1:
            raise InputError(f"{path}: the first line is not divided by comma, tab, semicolon or bar: {first[:80]!r}")
        raise InputError(
            f"{path}: the first line holds one column only: {first[:80]!r}; payments need a payer and a payee"
        )
    return delimiter


def _columns(where: str, names: Sequence[str]) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1 and name})
    if twice:
        raise InputError(
            f"{where}: the header names {', '.join(map(repr, twice))} more than once; give every column its own name"
        )
    return [name or f"column {k + 1}" for k, name in enumerate(names)]


def _encoding(path: str, head: bytes, notes: list[str]) -> str:
    for mark, name in ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if head.startswith(mark):
            return name
    for name in ("utf-8", "cp949"):
        try:
            text = codecs.getincrementaldecoder(name)().decode(head, final=len(head) < _SNIFF_BYTES)
        except UnicodeDecodeError:
            continue
        if name == "cp949":
            if not _is_korean(text):
                continue
            notes.append(f"{path}: not UTF-8; read as {name} (Korean Windows)")
        return name
    raise InputError(
        f"{path}: the text is neither UTF-8, UTF-16 nor cp949; convert it to UTF-8 (iconv -f ENCODING -t UTF-8)"
    )


def _is_korean(text: str) -> bool:
    """Tell Korean from Western text whose accents happen to be valid in cp949, as rare syllables that no standard has."""
    foreign = [character for character in text if character > "\x7f"]
    common = sum("가" <= character <= "힣" and character.encode("euc_kr", "ignore") != b"" for character in foreign)
    return 2 * common >= len(foreign)


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
        names, column = source.schema.names, source.column
    elif kind == "pandas" and hasattr(source, "iloc"):
        names, column = list(source.columns), lambda place: pa.Array.from_pandas(source.iloc[:, place])
    elif kind == "polars" and hasattr(source, "lazy"):
        frame = source.lazy().collect()
        names, column = frame.columns, lambda place: frame.to_series(place).to_arrow()
    elif kind == "networkx" and hasattr(source, "edges"):
        return _graph_source(source, name)
    else:
        raise UsageError(
            f"payments cannot be read from {type(source).__module__}.{type(source).__name__}; give a path, a pandas or Polars "
            "data frame, an Arrow table or a NetworkX graph"
        )
    return _frame_source(name, [str(label) for label in names], column, len(source) if kind == "pandas" else None)


def _frame_source(name: str, names: list[str], column: Callable[[int], Any], rows: int | None) -> Source:
    """Return a source that converts only the columns that are read: the others may hold anything."""
    columns = _columns(name, names)

    def batches(wanted: list[str]) -> Iterator[pa.RecordBatch]:
        arrays = []
        for label in wanted:
            try:
                arrays.append(column(columns.index(label)))
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                raise InputError(
                    f"{name}: column {label!r} holds mixed or unknown types: {_one_line(error)}; make it one type"
                ) from error
        yield from pa.table(arrays, names=wanted).to_batches(max_chunksize=BATCH_ROWS)

    return Source(name, columns, batches, lambda count: InputFile(name, None, None, count), rows)


def _graph_source(graph: Any, name: str) -> Source:
    """Read the edges of a graph: its nodes are payer and payee, the attributes of the edges are the other columns."""
    if not graph.is_directed():
        raise InputError(f"{name}: payments have a direction; give a DiGraph or a MultiDiGraph")
    edges = list(graph.edges(data=True))
    if not edges:
        raise InputError(f"{name}: no payments: the graph has no edges")
    attributes = list(dict.fromkeys(str(key) for *_, data in edges for key in data))
    for role in ("payer", "payee"):
        if role in attributes:
            raise InputError(f"{name}: an edge attribute is named {role!r}, which the nodes are; give it another name")

    def column(place: int) -> pa.Array:
        if place < 2:
            return pa.array([edge[place] for edge in edges])
        return pa.array([data.get(attributes[place - 2]) for *_, data in edges])

    return _frame_source(name, ["payer", "payee", *attributes], column, len(edges))
