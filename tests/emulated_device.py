"""Compiles and loads the emulated accelerator of tests/cpp/emulated_device/.

A process that loads it has an accelerator from then on, which changes what torch does elsewhere:
load it in a process of its own, never in that of pytest.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import os
import subprocess
import tempfile
import time
import types
from pathlib import Path

from kan_md.builds.cache import cache_dir
from kan_md.builds.toolchain import find_compiler, find_toolchain

SOURCES = Path(__file__).parent / "cpp" / "emulated_device"
INTERFACE = "include/ATen/core/GraphImplInterface.h"
"""Header of torch's interface for graphs of any device; old versions have none."""

DEVICE = "privateuseone:0"
LOG_VARIABLE = "EMULATED_DEVICE_LOG"
"""A program that used the device appends its counters as a line of JSON to the file named here."""


def build_emulated_device() -> Path | None:
    """Path of the library, compiled once per source and torch into the cache of the plug-in.

    ``None`` where torch cannot capture graphs of devices other than its own.
    """
    toolchain = find_toolchain()
    if not (toolchain.torch_root / INTERFACE).is_file():
        return None
    digest = hashlib.sha256(f"{toolchain.torch_root} {toolchain.torch_version}".encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.read_bytes())
    folder = cache_dir() / "emulated_device" / digest.hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "libemulated_device.so"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.is_file():
            _compile(library, toolchain.torch_root)
    return library


def _compile(library: Path, torch_root: Path) -> None:
    include = torch_root / "include"
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        new = Path(folder) / library.name
        subprocess.run(
            [
                *(find_compiler(), "-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror"),
                *("-fPIC", "-shared"),
                *("-isystem", str(include)),
                *("-isystem", str(include / "torch" / "csrc" / "api" / "include")),
                *(str(SOURCES / "device.cpp"), "-o", str(new)),
                *(f"-L{torch_root / 'lib'}", f"-Wl,-rpath,{torch_root / 'lib'}"),
                *("-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10"),
            ],
            check=True,
            env=os.environ | {"LC_ALL": "C"},
        )
        new.rename(library)


def load_emulated_device(library: Path | str) -> None:
    """Make the device known to this process, as ``torch.accelerator`` and by its name."""
    import torch

    # torch imports the Python module of a device before it makes the first tensor there.
    module = types.ModuleType("torch.privateuseone")
    module.is_available = lambda: True
    module.device_count = lambda: 1
    module.current_device = lambda: 0
    torch._register_device_module("privateuseone", module)
    torch.ops.load_library(str(library))
    # A thread of the autograd engine drops its last tensors late; a Python that ends then aborts.
    atexit.register(time.sleep, 0.2)
