"""Write down the parameters of every callable of CuPy and RAPIDS that our source uses: ``python tests/contract/record.py``.

Needs the wheels of RAPIDS (the extra cu12 or cu13), no device. ``signatures.json`` is committed, so that ``test_contract.py``
finds a wrong name or keyword on any machine.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from contract.uses import PACKAGES, uses

RECORD = Path(__file__).with_name("signatures.json")

ACCESSORS = {"str": "cudf.core.accessors.string.StringMethods"}
"""The classes behind properties of columns that have methods of their own."""

Record = dict[str, Any]


def record(names: set[str]) -> Record:
    """Return versions and parameters of dotted names, as they are installed here.

    Parameters are written as in a ``def``, defaults as ``...``; null where a name is there but says nothing about them.

    Raises
    ------
    AttributeError
        If a name is not there.
    """
    return {"versions": versions(), "names": {name: _described(name) for name in sorted(names)}}


def versions() -> dict[str, str]:
    """Return the installed versions of the packages, by the name they are imported by."""
    providers = metadata.packages_distributions()
    return {name: metadata.version(providers[name][0]) for name in PACKAGES if name in providers}


def resolve(name: str) -> tuple[Any, Any]:
    """Return what a dotted name stands for, and the object that it is an attribute of."""
    parts = name.split(".")
    found = importlib.import_module(parts[0])
    owner = found
    for place, part in enumerate(parts[1:], start=1):
        owner = found
        if inspect.ismodule(found) and not hasattr(found, part):
            importlib.import_module(".".join(parts[: place + 1]))
        found = getattr(found, part)
        if isinstance(found, property) and part in ACCESSORS:
            module, _, accessor = ACCESSORS[part].rpartition(".")
            found = getattr(importlib.import_module(module), accessor)
    return found, owner


def _described(name: str) -> str | None:
    try:
        found, owner = resolve(name)
    except (AttributeError, ImportError) as error:
        raise AttributeError(f"{name}: {error}") from error
    if not callable(found):
        return None
    try:
        parameters = list(inspect.signature(found).parameters.values())
    except (TypeError, ValueError):
        return _from_text(found)
    if inspect.isclass(owner) and not inspect.ismethod(found):
        parameters = parameters[1:]  # self
    return _written(parameters)


def _written(parameters: list[inspect.Parameter]) -> str:
    """Return parameters as in a ``def``, with ``...`` for each default."""
    empty = inspect.Parameter.empty
    plain = [
        parameter.replace(annotation=empty, default=empty if parameter.default is empty else ...)
        for parameter in parameters
    ]
    return str(inspect.Signature(plain))[1:-1].replace("Ellipsis", "...")


def _from_text(found: Any) -> str | None:
    """Read the parameters off the first line of a docstring, which compiled code begins with them."""
    if type(found).__name__ == "ufunc":
        inputs = ", ".join(f"x{k + 1}" for k in range(found.nin))
        outputs = ", ".join(f"out{k + 1}=..." for k in range(found.nout)) if found.nout > 1 else "out=..."
        return f"{inputs}, {outputs}, *, casting=..., dtype=..." + (", out=..." if found.nout > 1 else "")
    line = (inspect.getdoc(found) or "").partition("\n")[0]
    match = re.match(r"[\w.]+\((.*)\)(?: -> .*)?$", line)
    if match is None:
        return None
    parameters = [_plain(part) for part in _split(match[1].replace("\\", ""))]
    if parameters and parameters[0] == "self":
        parameters = parameters[1:]
    text = ", ".join(parameters)
    try:
        ast.parse(f"def f({text}): ...")
    except SyntaxError:
        return None
    return text


def _split(text: str) -> list[str]:
    """Split at the commas outside of brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _plain(parameter: str) -> str:
    """Return a parameter without its type, which compiled code writes in front of the name."""
    name, default, _ = parameter.partition("=")
    name = name.split(":")[0].split()[-1]
    return f"{name}=..." if default else name


def main() -> None:
    """Record what the source uses."""
    found = record({use.name for use in uses()})
    RECORD.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    packages = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    print(f"{RECORD.name}: {len(found['names'])} names of {packages}")


if __name__ == "__main__":
    main()
