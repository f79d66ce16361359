"""Devices that a model can be put on."""

from __future__ import annotations

import torch

from kan_md.errors import user_error


def check_device(device: str, *, without: str = "choose device cpu") -> str:
    """Refuse a device that is unknown, or that this machine or this torch does not have.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        without: what to do without a GPU.

    Returns:
        The same.

    Raises:
        KanMdError: it is none of these, or absent.
    """
    kind, _, index = device.partition(":")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind not in ("cpu", "cuda") or (":" in device and (kind == "cpu" or not index.isdecimal())):
        raise user_error(
            "unknown device", found=device, allowed="cpu, cuda, cuda:N", remedy="choose device cpu"
        )
    if kind == "cuda" and int(index or 0) >= count:
        found = f"{device} with {count} CUDA devices here" if count else device
        allowed = ", ".join(["cpu", *(f"cuda:{number}" for number in range(count))])
        problem = "no such CUDA device here" if count else "no CUDA device here"
        remedy = "choose one of these" if count else without
        raise user_error(problem, found=found, allowed=allowed, remedy=remedy)
    return device


def set_tf32(allowed: bool) -> None:
    """Say whether GPUs may multiply float32 matrices with 10 bits of mantissa (TF32).

    torch's own default can be changed by the environment, so that what a model asks for is said
    whenever one is compiled or loaded.
    """
    torch.backends.cuda.matmul.allow_tf32 = allowed
