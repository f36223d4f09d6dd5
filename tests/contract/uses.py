"""What of CuPy and RAPIDS our source uses: names, how many arguments, which keywords, in which line."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = ("engine/ouroflow", "bench")

PACKAGES = ("cupy", "cupyx", "cudf", "pylibcudf", "cugraph", "pylibcugraph", "rmm", "dask_cudf", "dask_cuda")

STAND_INS: tuple[tuple[str, str, str], ...] = (
    ("*", "xp", "cupy"),
    ("engine/ouroflow/ledger/gpu*.py", "module", "cudf"),
    ("engine/ouroflow/ledger/gpu*.py", "_cupy", "cupy"),
)
"""In these files, a variable or attribute of this name is this package."""

LEDGER, LAUNCH, CUGRAPH = (
    "engine/ouroflow/ledger/gpu*.py",
    "engine/ouroflow/runtime/launch.py",
    "engine/ouroflow/components/gpu_cugraph.py",
)
METHODS: tuple[tuple[str, str, str], ...] = (
    (LEDGER, "astype", "cudf.Series"),
    (LEDGER, "factorize", "cudf.Series"),
    (LEDGER, "hasnans", "cudf.Series"),
    (LEDGER, "iloc", "cudf.Series"),
    (LEDGER, "max", "cudf.Series"),
    (LEDGER, "memory_usage", "cudf.DataFrame"),
    (LEDGER, "sum", "cudf.Series"),
    (LEDGER, "take", "cudf.Series"),
    (LEDGER, "to_arrow", "cudf.Series"),
    (LEDGER, "to_pylibcudf", "cudf.Series"),
    (LEDGER, "values", "cudf.Series"),
    (LEDGER, "data", "pylibcudf.Column"),
    (LEDGER, "offset", "pylibcudf.Column"),
    (LEDGER, "size", "pylibcudf.Column"),
    (LEDGER, "str.find", "cudf.Series"),
    (LEDGER, "str.isdecimal", "cudf.Series"),
    (LEDGER, "str.len", "cudf.Series"),
    (LEDGER, "str.match", "cudf.Series"),
    (LEDGER, "str.replace", "cudf.Series"),
    (LAUNCH, "free_bytes", "cupy.cuda.MemoryPool"),
    (LAUNCH, "get_function", "cupy.RawModule"),
    (LAUNCH, "mem_info", "cupy.cuda.Device"),
    (LAUNCH, "synchronize", "cupy.cuda.Stream"),
    (LAUNCH, "use", "cupy.cuda.Device"),
    (CUGRAPH, "from_cudf_edgelist", "cugraph.Graph"),
    (CUGRAPH, "values", "cudf.Series"),
)
"""In these files, a method of this name may be called on an object of this class; the type of an object is not in the source."""

ARRAYS = ("gpu*.py", "*_gpu.py", "launch.py")
"""Files whose arrays are CuPy's: the methods of arrays that they call with keywords are held against ``cupy.ndarray``."""
ARRAY_METHODS = ("all", "any", "argmax", "argmin", "argsort", "astype", "clip", "copy", "cumprod", "cumsum", "diagonal", "dot",
    "max", "mean", "min", "prod", "repeat", "reshape", "round", "sort", "std", "sum", "take", "trace", "var", "view")  # fmt: skip
HOST_ARRAYS: tuple[tuple[str, str], ...] = (("engine/ouroflow/roundtrip/gpu_push.py", "labels"),)
"""In these files, what is written so is NumPy's and may use keywords that CuPy does not have."""


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a name.

    Attributes
    ----------
    name : str
        Dotted, such as 'cupy.argsort' or 'cudf.Series.take'.
    file : str
    line : int
    positional : int or None
        Arguments without keyword. None: it is not called here, or with an unknown number (``*arguments``).
    keywords : tuple of str
    whole : bool
        All arguments are known, so that missing ones are too.
    """

    name: str
    file: str
    line: int
    positional: int | None = None
    keywords: tuple[str, ...] = ()
    whole: bool = False


def uses(root: Path = REPOSITORY) -> list[Use]:
    """Return every use in the source below a repository."""
    files = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))]
    named = [(path.read_text(encoding="utf-8"), path.relative_to(root).as_posix()) for path in files]
    return [use for source, file in named for use in uses_in(source, file)]


def uses_in(source: str, file: str) -> list[Use]:
    """Return every use in one file."""
    tree = ast.parse(source, file)
    stand_ins = {name: package for pattern, name, package in STAND_INS if fnmatch(file, pattern)}
    imported = dict(_imports(tree))
    methods = {name: owner for pattern, name, owner in METHODS if fnmatch(file, pattern)}
    arrays = any(fnmatch(Path(file).name, pattern) for pattern in ARRAYS)
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute | ast.Name):
            continue
        call = calls.get(id(node))
        name = _package_name(node, imported, stand_ins)
        if name is not None:
            # Of cupy.cuda.Device the whole is a use, cupy.cuda is none.
            if id(node) not in inner and "." in name:
                found.append(_use(name, file, node, call))
        elif isinstance(node, ast.Attribute):
            found += _method_uses(node, file, call, methods, arrays)
    return found


def _imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the local name of each import of the packages, and what it stands for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in PACKAGES:
                    yield (alias.asname, alias.name) if alias.asname else (alias.name.partition(".")[0],) * 2
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in PACKAGES:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _package_name(node: ast.expr, imported: Mapping[str, str], stand_ins: Mapping[str, str]) -> str | None:
    """Return the dotted name of an expression below a package, None for anything else."""
    if isinstance(node, ast.Name):
        return imported.get(node.id) or stand_ins.get(node.id)
    if not isinstance(node, ast.Attribute):
        return None
    outer = _package_name(node.value, imported, stand_ins)
    if outer is not None:
        return f"{outer}.{node.attr}"
    return stand_ins.get(node.attr)


def _method_uses(
    node: ast.Attribute, file: str, call: ast.Call | None, methods: Mapping[str, str], arrays: bool
) -> Iterator[Use]:
    accessor = f"{node.value.attr}." if isinstance(node.value, ast.Attribute) and node.value.attr == "str" else ""
    owner = methods.get(accessor + node.attr)
    if owner is not None:
        yield _use(f"{owner}.{accessor}{node.attr}", file, node, call)
    if not arrays or call is None or not call.keywords or node.attr not in ARRAY_METHODS:
        return
    receiver = ast.unparse(node.value)
    if receiver not in ("np", "pa", "pc") and (file, receiver) not in HOST_ARRAYS:
        yield _use(f"cupy.ndarray.{node.attr}", file, node, call)


def _use(name: str, file: str, node: ast.expr, call: ast.Call | None) -> Use:
    if call is None:
        return Use(name, file, node.lineno)
    starred = any(isinstance(argument, ast.Starred) for argument in call.args)
    keywords = tuple(keyword.arg for keyword in call.keywords if keyword.arg is not None)
    whole = not starred and len(keywords) == len(call.keywords)
    return Use(name, file, node.lineno, None if starred else len(call.args), keywords, whole)
