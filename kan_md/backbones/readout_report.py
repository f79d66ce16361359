"""What stands at the sites of a model: kind, widths, number of parameters, where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from kan_md.backbones.build import adapter_of
from kan_md.backbones.etgnn.layers import UpProjection
from kan_md.backbones.readout import MLP, ProjectedKAN
from kan_md.backbones.sites import widths_of
from kan_md.kan.controls import FinnisSinclair, LinearPerType
from kan_md.kan.network import KAN
from kan_md.kan.per_type import PerTypeKAN

_OURS = (KAN, ProjectedKAN, PerTypeKAN, MLP, FinnisSinclair, LinearPerType)


def describe_readouts(model: torch.nn.Module, backbone: str) -> list[dict[str, object]]:
    """Describe the functions of scalars that stand at a model's sites, output blocks first.

    Args:
        model: what :func:`kan_md.backbones.build.build_model` returns.
        backbone: its architecture.

    Returns:
        For each ``{"site", "place", "made_by", "kind", "basis", "widths", "per_type",
        "parameters"}``, plain values; ``made_by`` is ``kan-md`` for what ``readout`` asked for and
        ``upstream`` for what was left there; ``basis`` is empty where there is none.
    """
    return [
        {
            "site": site,
            "place": place,
            "made_by": "kan-md" if is_ours(function) else "upstream",
            **_describe(function),
            "per_type": per_type,
            "parameters": sum(parameter.numel() for parameter in function.parameters()),
        }
        for site, place, function, per_type in _functions(model, backbone)
    ]


def is_ours(function: torch.nn.Module) -> bool:
    """Whether a function is what a readout configuration asked for, and not upstream's."""
    return isinstance(function, _OURS)


def readout_lines(
    readouts: Sequence[Mapping[str, object]], *, idle: Sequence[str] = ()
) -> list[str]:
    """One line for each output block and each other block that was replaced.

    Args:
        readouts: see :func:`describe_readouts`.
        idle: hyperparameters that were given in vain, see
            :func:`kan_md.backbones.build.idle_hyperparameters`.
    """
    lines = [
        f"{entry['site']}{', ' if entry['place'] else ''}{entry['place']}: {entry['kind']}"
        f"{' ' if entry['basis'] else ''}{entry['basis']} {'-'.join(map(str, entry['widths']))}"
        f"{' of each type' if entry.get('per_type') else ''}, {entry['parameters']:,} parameters"
        for entry in readouts
        if entry["site"] == "output" or entry["made_by"] == "kan-md"
    ]
    if idle:
        names = ", ".join(f"model.{name}" for name in idle)
        lines.append(f"note: without effect, because the readout stands there: {names}")
    return lines


def _functions(
    model: torch.nn.Module, backbone: str
) -> Iterator[tuple[str, str, torch.nn.Module, bool]]:
    module = adapter_of(backbone).load()
    fixed = module.upstream_readouts(model) if hasattr(module, "upstream_readouts") else []
    for place, function in fixed:
        yield "output", place, function, False
    for site, slots in module.sites(model).items():
        for slot in slots:
            if site != "radial" or is_ours(slot.function):  # upstream's have always been unsaid
                yield site, slot.place, slot.function, getattr(slot.parent, "per_type", False)


def _describe(function: torch.nn.Module) -> dict[str, object]:
    kan = next((m for m in function.modules() if isinstance(m, KAN)), None)
    if kan is not None:
        widths = widths_of(function)
        if widths is None:
            assert isinstance(function, PerTypeKAN)
            first = [] if function.projection is None else [function.projection[0].in_features]
            widths = [*first, *kan.widths]
        return {"kind": "kan", "basis": kan.layers[0].basis, "widths": widths}
    widths = widths_of(function) or _widths_of_mace(function)
    if isinstance(function, FinnisSinclair):
        return {"kind": "finnis_sinclair", "basis": "", "widths": widths}
    nonlinear = len(widths) > 2 or isinstance(function, UpProjection)
    return {"kind": "mlp" if nonlinear else "linear", "basis": "", "widths": widths}


def _widths_of_mace(block: torch.nn.Module) -> list[int]:
    """The same for one of mace-torch's readout blocks, whose linear maps say it by irreps."""
    maps = [child for child in block.children() if hasattr(child, "irreps_in")]
    maps = [child for child in maps if hasattr(child, "weight_numel")]
    return [maps[0].irreps_in.count("0e"), *(child.irreps_out.dim for child in maps)]
