"""Which device a run works on: chosen once, said aloud with the reason."""

from __future__ import annotations

from dataclasses import dataclass

from ouroflow.errors import ResourceError, UsageError


@dataclass(frozen=True, slots=True)
class Device:
    """The device of a run and why it was picked."""

    name: str
    why: str


def choose_device(asked: str = "auto") -> Device:
    """Return the device to work on.

    Parameters
    ----------
    asked : {'auto', 'cpu', 'gpu'}
        What the user asked for.

    Raises
    ------
    ResourceError
        If a GPU was asked for: this version has CPU rooms only.
    UsageError
        If the name is not one of the three.
    """
    if asked == "cpu":
        return Device("cpu", "as asked")
    if asked == "auto":
        return Device("cpu", "this version computes on the CPU; its GPU twins are not built yet")
    if asked == "gpu":
        raise ResourceError(
            "--device gpu: this version has no GPU twins yet; use --device cpu, which computes every measure"
        )
    raise UsageError(f"--device {asked}: choose auto, cpu or gpu")
