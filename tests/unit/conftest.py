"""What the tests of backbones and of model files share."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from kan_md.backbones.mace import import_mace
from kan_md.backbones.nequip_settings import nequip_settings


@pytest.fixture(scope="session")
def files_up_to() -> Callable:
    """Context in which no file grows beyond so many bytes, as on a disk that is full."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture(scope="session")
def mace_torch_model() -> Callable:
    """Factory of small models by mace-torch's own constructors, in float64."""
    return _mace_torch_model


def _mace_torch_model(elements: list[int], *, kind: str = "ScaleShiftMACE", **changes):
    """A model by mace-torch's constructor, with random weights and reference energies."""
    from e3nn import o3

    modules = import_mace()
    arguments = {
        "r_max": 4.0,
        "num_bessel": 4,
        "num_polynomial_cutoff": 5,
        "max_ell": 2,
        "interaction_cls": modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        "interaction_cls_first": modules.interaction_classes["RealAgnosticInteractionBlock"],
        "num_interactions": 2,
        "num_elements": len(elements),
        "hidden_irreps": o3.Irreps("4x0e + 4x1o"),
        "MLP_irreps": o3.Irreps("5x0e"),
        "atomic_energies": -1.0 - np.arange(len(elements), dtype=float),
        "avg_num_neighbors": 3.5,
        "atomic_numbers": elements,
        "correlation": 2,
        "gate": torch.nn.functional.silu,
        "radial_MLP": [8],
    }
    if kind == "ScaleShiftMACE":
        arguments |= {"atomic_inter_scale": 0.75, "atomic_inter_shift": 0.125}
    arguments |= changes
    with nequip_settings():
        torch.manual_seed(5)
        torch.set_default_dtype(torch.float64)
        return getattr(modules, kind)(**arguments).eval()


def _benchmark_row(label: str, ms: float, ratio: float | None = None, **changes):
    from kan_md.benchmark.statistics import Row

    given = dict(
        label=label,
        readout="kan gaussian",
        backbone="allegro",
        dtype="float32",
        backend="torchscript",
        passes=("one",),
        num_atoms=71,
        edges_per_atom=28.0,
        steps=100,
        ms_per_step=ms,
        ms_error=0.1 * ms,
        ms_p95=1.2 * ms,
        ms_mean=ms,
        us_per_atom_step=ms * 1e3 / 71,
        ns_per_day=86.4 / ms,
        phases={"Pair": 0.9, "Comm": 0.1},
        peak_rss_mib=300.0,
        device_mib={},
        temperature=300.0,
        ratio=ratio,
        ratio_error=0.01,
    )
    return Row(**given | changes)


@pytest.fixture
def benchmark_row() -> Callable:
    """Factory of rows of a report: label, ms per step, ratio, and what else differs."""
    return _benchmark_row


@pytest.fixture
def report():
    """A report of two models, made up."""
    from kan_md.benchmark.compare import Conditions, Report

    return Report(
        title="two models",
        rows=[_benchmark_row("KAN", 10.0, 0.5), _benchmark_row("MLP", 20.0, 1.0)],
        control="MLP",
        structure="Ag71",
        conditions=Conditions(steps=100),
        machine={
            "cpu": "some CPU",
            "cores": 2,
            "memory_gib": 4.0,
            "gpus": [],
            "system": "Linux",
            "python": "3",
            "versions": {"torch": "2"},
        },
        command="kan-md benchmark",
        date="2026-01-01 00:00",
    )
