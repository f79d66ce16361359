"""Process-wide settings that nequip's builders want, set for a while."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import e3nn
import numpy as np
import torch
from nequip.utils.global_state import set_global_state

_SEED_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")


@contextmanager
def nequip_settings() -> Iterator[None]:
    """Set nequip's global state inside, and put back outside what it changes for everyone.

    nequip's builders refuse to run before ``set_global_state``, which seeds every random number
    generator, makes float64 the default dtype and changes e3nn's code generation. Random streams,
    default dtype, Lightning's seed variables and e3nn's defaults are restored on the way out, also
    after an exception.
    """
    default_dtype = torch.get_default_dtype()
    e3nn_defaults = e3nn.get_optimization_defaults()
    variables = {name: os.environ.get(name) for name in _SEED_VARIABLES}
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(_devices_with_streams(), device_type="cuda"):
        try:
            set_global_state()
            torch.set_default_dtype(torch.float64)  # which upstream does the first time only
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
            torch.set_default_dtype(default_dtype)
            e3nn.set_optimization_defaults(**e3nn_defaults)
            for name, value in variables.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _devices_with_streams() -> list[int]:
    """CUDA devices whose random streams are in use; by default torch warns where there are many."""
    return list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
