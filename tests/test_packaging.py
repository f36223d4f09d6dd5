"""The wheel, the sdist and the editable install all carry the engine, the kernels folder and the data sets."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from importlib import resources
from pathlib import Path

import pytest
import yaml

from ouroflow.assets import dataset_names, load_dataset

pytestmark = pytest.mark.cpu

REPOSITORY = Path(__file__).resolve().parents[1]
CARRIED = {
    "ouroflow/py.typed",
    "ouroflow/cli.py",
    "ouroflow/kernels/README.md",
    "ouroflow/datasets/ai-deals/card.yaml",
    "ouroflow/datasets/ai-deals/deals.csv",
    "ouroflow/datasets/ai-deals-annual/deals.csv",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist, and the wheel from that sdist, as a package index would get them."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PIP_NO_INDEX": "1"}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_wheel_is_pure_and_complete(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert names >= CARRIED
    tops = {name.split("/")[0] for name in names}
    assert all(top == "ouroflow" or top.endswith(".dist-info") for top in tops), "no `kernels` or `datasets` at the top"
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_sdist_holds_what_a_build_needs(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= {"pyproject.toml", "README.md", "LICENSE", "engine/ouroflow/cli.py", "datasets/ai-deals/deals.csv"}


@pytest.mark.parametrize("folder", ["kernels", "datasets"])
def test_data_folders_hold_no_python(folder: str) -> None:
    assert not list((REPOSITORY / folder).rglob("*.py"))
    assert resources.files(f"ouroflow.{folder}").is_dir()


@pytest.mark.parametrize("name", dataset_names())
def test_every_card_agrees_with_its_files(name: str) -> None:
    folder = REPOSITORY / "datasets" / name
    card = yaml.safe_load((folder / "card.yaml").read_text(encoding="utf-8"))
    assert card["name"] == name == load_dataset(name).name
    for file in card["files"]:
        content = (folder / file["name"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        assert len(content) == file["bytes"]
