"""Which device a run works on: chosen once, said aloud with the reason."""

from __future__ import annotations

import ctypes
import importlib.util
from dataclasses import dataclass

from ouroflow.errors import ResourceError, UsageError
from ouroflow.runtime.launch import Accelerator, Cuda, cuda

LEAST_CAPABILITY = (7, 5)
"""Oldest compute capability that the kernels are compiled for."""


@dataclass(frozen=True, slots=True)
class Device:
    """The device of a run and why it was picked.

    Attributes
    ----------
    name : {'cpu', 'gpu'}
    why : str
        For people.
    on : Accelerator or None
        What runs the kernels; None on the CPU.
    """

    name: str
    why: str
    on: Accelerator | None = None


def choose_device(asked: str | Accelerator = "auto") -> Device:
    """Return the device to work on.

    Parameters
    ----------
    asked : {'auto', 'cpu', 'gpu'} or Accelerator
        What the user asked for; an accelerator is used as it is (`Cuda(1)` for the second device of a machine).

    Raises
    ------
    ResourceError
        If a GPU was asked for and none can be used.
    UsageError
        If the name is not one of the three.
    """
    if isinstance(asked, Accelerator):
        return Device("gpu", f"{asked.name}, as given", asked)
    if asked == "cpu":
        return Device("cpu", "as asked")
    if asked not in ("auto", "gpu"):
        raise UsageError(f"--device {asked}: choose auto, cpu or gpu")
    try:
        on = usable_gpu()
    except ResourceError as error:
        if asked == "gpu":
            raise ResourceError(f"--device gpu: {error}; --device cpu computes every measure") from error
        return Device("cpu", f"no GPU can be used: {error}")
    return Device("gpu", f"{on.name}" + (", as asked" if asked == "gpu" else " can be used"), on)


def driver_is_there() -> bool:
    """Tell whether this machine has an NVIDIA driver at all; without one no package helps."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def usable_gpu() -> Cuda:
    """Return the first NVIDIA device.

    Raises
    ------
    ResourceError
        If there is none that the kernels run on, with the reason and what to install.
    """
    if not driver_is_there():
        raise ResourceError("this machine has no NVIDIA driver (libcuda.so.1 cannot be loaded)")
    if importlib.util.find_spec("cupy") is None:
        raise ResourceError("CuPy is not installed; the extras cu12 and cu13 of ouroflow bring it, for CUDA 12 and 13")
    on = cuda()
    if on.capability < LEAST_CAPABILITY:
        has, needs = (".".join(map(str, version)) for version in (on.capability, LEAST_CAPABILITY))
        raise ResourceError(f"{on.name} has compute capability {has}, and the kernels need {needs}")
    on.share_pool()
    return on
