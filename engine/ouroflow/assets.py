"""The bundled data sets: cards, files and their checksums, found inside the installed package."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from ouroflow.errors import InputError


@dataclass(frozen=True, slots=True)
class Dataset:
    """A bundled data set.

    Attributes
    ----------
    name : str
        What ``ouroflow analyze NAME`` takes.
    card : dict
        The content of its card.yaml: columns, roles, unit, decimals, status_default, licence, files, caveats.
    path : Path
        The payments file.
    """

    name: str
    card: dict[str, Any]
    path: Path

    @property
    def roles(self) -> dict[str, str]:
        """Column of each role (payer, payee, amount, time, ...) as the card states it."""
        return dict(self.card["roles"])

    @property
    def statuses(self) -> tuple[str, ...]:
        """The statuses that count when the user names none."""
        return tuple(self.card.get("status_default", ()))


def dataset_names() -> list[str]:
    """Return the names of the bundled data sets, sorted."""
    return sorted(entry.name for entry in _root().iterdir() if (entry / "card.yaml").is_file())


def load_dataset(name: str) -> Dataset:
    """Return a bundled data set after checking its payments file against the sha256 of its card.

    Raises
    ------
    InputError
        If there is no such data set, or if its file was changed.
    """
    import yaml

    folder = _root() / name
    if not (folder / "card.yaml").is_file():
        raise InputError(f"no bundled data set is named {name!r}; there are: {', '.join(dataset_names())}")
    card = yaml.safe_load((folder / "card.yaml").read_text(encoding="utf-8"))
    payments = next(file for file in card["files"] if file["role"] == "payments")
    path = Path(str(folder / payments["name"]))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != payments["sha256"]:
        raise InputError(
            f"{path}: the bundled data set {name} was changed (sha256 {found}, its card says {payments['sha256']}); install again"
        )
    return Dataset(name, card, path)


def _root() -> Traversable:
    return resources.files("ouroflow.datasets")
