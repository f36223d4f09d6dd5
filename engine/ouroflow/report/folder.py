"""The OUT folder, written aside and renamed: a killed run never leaves a half file under the name the user asked for."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ouroflow.errors import ResourceError, UsageError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class OutFolder:
    """Writes the files of a run into a folder beside OUT, and renames it to OUT when everything is there.

    Parameters
    ----------
    out : Path
        The folder that the user asked for. An older result of ouroflow there is replaced; anything else is refused.

    Raises
    ------
    UsageError
        If `out` is a file, or a folder that holds something other than a result of ouroflow.
    ResourceError
        If the disk is full or the folder cannot be written.
    """

    def __init__(self, out: Path) -> None:
        # A link is followed: what stands at its end is replaced, not the link.
        self.out = out = Path(os.path.realpath(out))
        token = f"{secrets.token_hex(4)}-{os.getpid()}"
        self.aside = out.parent / f".{out.name}.partial-{token}"
        self.old = out.parent / f".{out.name}.replaced-{token}"
        self.sha256: dict[str, str] = {}
        if out == Path.cwd() or out in Path.cwd().parents:
            raise UsageError(
                f"-o {out}: this is the working folder or holds it, and cannot be replaced; name a folder in it"
            )
        if out.exists() and not out.is_dir():
            raise UsageError(f"-o {out}: this is a file; name a folder")
        foreign = _foreign_files(out) if out.is_dir() else []
        if foreign:
            raise UsageError(
                f"-o {out}: the folder holds files that are not a result of ouroflow ({', '.join(foreign[:3])}), "
                "and they would be lost. Name a new folder"
            )

    def __enter__(self) -> OutFolder:
        """Make the folder aside; leftovers of killed runs of dead processes are removed."""
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._clear_up()
            self.aside.mkdir()
        except OSError as error:
            raise self._cannot_write(error) from error
        return self

    def table(self, name: str, table: pa.Table) -> None:
        """Write one Parquet file, for example ``companies.parquet`` or ``certificate/order.parquet``."""
        path = self._place(name)
        try:
            pq.write_table(table, path, compression="zstd", compression_level=1)
        except OSError as error:
            raise self._cannot_write(error) from error
        self._seal(name, path)

    def json(self, name: str, content: dict[str, Any], *, seal: bool = True) -> None:
        """Write one JSON file; `seal` records its sha256 (run.json itself, which holds the sums, cannot be sealed)."""
        path = self._place(name)
        try:
            path.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise self._cannot_write(error) from error
        if seal:
            self._seal(name, path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Rename to OUT when all went well, and leave nothing behind when it did not."""
        if kind is not None:
            shutil.rmtree(self.aside, ignore_errors=True)
            return
        try:
            for path in sorted(self.aside.rglob("*")):
                _sync(path)
            self._swap()
        except BaseException as broken:
            shutil.rmtree(self.aside, ignore_errors=True)
            if isinstance(broken, OSError):
                raise self._cannot_write(broken) from broken
            raise

    def _clear_up(self) -> None:
        """Remove what killed runs of dead processes have left; a result that one of them had moved aside is put back first."""
        for kind in ("replaced", "partial"):
            for left in self.out.parent.glob(f".{self.out.name}.{kind}-*"):
                if _alive(left.name.rpartition("-")[2]):
                    continue
                if kind == "replaced" and not self.out.exists():
                    left.rename(self.out)
                else:
                    shutil.rmtree(left, ignore_errors=True)

    def _swap(self) -> None:
        # A folder cannot be renamed over a folder that holds files, so an old result steps aside first and goes last.
        moved = False
        try:
            if self.out.exists():
                self.out.rename(self.old)
                moved = True
            self.aside.rename(self.out)
        except BaseException:
            if moved and not self.out.exists():
                self.old.rename(self.out)
            raise
        _sync(self.out.parent)
        shutil.rmtree(self.old, ignore_errors=True)

    def _place(self, name: str) -> Path:
        path = self.aside / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._cannot_write(error) from error
        return path

    def _seal(self, name: str, path: Path) -> None:
        with path.open("rb") as file:
            self.sha256[name] = hashlib.file_digest(file, "sha256").hexdigest()

    def _cannot_write(self, error: OSError) -> ResourceError | UsageError:
        if error.errno in _NO_ROOM or "No space left" in str(error):
            return ResourceError(
                f"-o {self.out}: the disk is full ({error}); nothing was left behind. Free space or name another disk"
            )
        return UsageError(
            f"-o {self.out}: cannot write there ({error.strerror or error}); name a folder that may be written"
        )


def _foreign_files(out: Path) -> list[str]:
    """Return the files of a folder that no run of ouroflow has written there."""
    try:
        found = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir())
    except FileNotFoundError:
        return []  # another run replaces the folder at this moment
    try:
        written = {*json.loads((out / "run.json").read_text(encoding="utf-8"))["tables"], "run.json"}
    except (OSError, ValueError, KeyError, TypeError):
        written = set()
    return [name for name in found if name not in written]


def _alive(pid: str) -> bool:
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
