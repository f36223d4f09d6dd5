"""The doctor says what a machine offers and what to install; asking for a device that is not there ends with the reason."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ouroflow.cli import main
from ouroflow.doctor import lane_obstacles
from ouroflow.runtime.device import choose_device

pytestmark = pytest.mark.cpu

no_device = pytest.mark.skipif(lane_obstacles()["gpu"] is None, reason="this machine has a usable device")


def test_the_findings_are_the_same_as_text_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"machine", "packages", "device", "rapids", "lanes", "advice"}
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert found["device"]["chosen"] in text
    assert all(name in text for part in ("machine", "packages", "rapids", "lanes") for name in found[part])
    assert found["packages"]["ouroflow"] != "not installed"


def test_every_lane_is_reported_with_the_reason_why_it_cannot_run() -> None:
    lanes = lane_obstacles()
    assert set(lanes) == {"cpu", "host", "sanitize", "nvrtc", "contract", "gpu"}
    assert lanes["cpu"] is None
    assert all(why is None or len(why) > 10 for why in lanes.values())


@no_device
def test_without_a_device_auto_takes_the_cpu_and_says_why() -> None:
    chosen = choose_device("auto")
    assert chosen.name == "cpu" and chosen.on is None
    assert "no GPU can be used: " in chosen.why and len(chosen.why) > 40


@no_device
@pytest.mark.parametrize("command", [["doctor", "--warm"], ["analyze", "ai-deals", "--device", "gpu"]])
def test_without_a_device_asking_for_one_ends_with_code_4(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 4
    said = capsys.readouterr().err
    assert "CuPy" in said or "driver" in said or "device" in said
    assert "Traceback" not in said


def test_where_the_driver_is_missing_cupy_is_no_traceback(tmp_path: Path) -> None:
    # A CuPy that imports and finds no driver, as on a machine with the wheel and without a card.
    package = tmp_path / "cupy"
    package.mkdir()
    (package / "__init__.py").write_text(
        "class CUDARuntimeError(RuntimeError): pass\n"
        "class runtime:\n"
        "    CUDARuntimeError = CUDARuntimeError\n"
        "    @staticmethod\n"
        "    def getDeviceProperties(ordinal): raise CUDARuntimeError('cudaErrorNoDevice: no CUDA-capable device')\n"
        "class cuda:\n"
        "    runtime = runtime\n"
    )
    look = (
        "from ouroflow.runtime.launch import cuda\n"
        "try: cuda()\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", look], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "ResourceError no usable NVIDIA device: cudaErrorNoDevice: no CUDA-capable device\n"
