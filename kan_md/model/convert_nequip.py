"""From a checkpoint of nequip-train or a package of nequip-package to model.pth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import ase
import numpy as np
import torch
from ase.data import chemical_symbols
from nequip.data import AtomicDataDict
from nequip.data.ase import from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.nn.graph_model import GraphModel
from nequip.utils import torch_default_dtype

from kan_md.backbones.build import build_model, sites_of
from kan_md.backbones.nequip_builders import (
    build_upstream,
    complete_arguments,
    find_builder,
    own_arguments,
)
from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.backbones.readout import MLP, ReadoutConfig
from kan_md.backbones.weights import WeightsDoNotFitError, load_weights
from kan_md.errors import user_error
from kan_md.forms.networks import linear_weight
from kan_md.model.conversion import (
    Compared,
    Conversion,
    Upstream,
    compare,
    finish,
    made_up_structures,
    wanted_readout,
)
from kan_md.model.nequip_file import NequIPFile, read_nequip_file

_ENERGIES = ".per_type_energy_scale_shift."
_PACKAGES = {"nequip": "nequip", "allegro": "nequip-allegro"}
"""Names under which files note versions, and those of the distributions."""


def convert_nequip(
    path: Path,
    *,
    trust: bool = False,
    readout: ReadoutConfig | Mapping | str | None = None,
    structures: Sequence[ase.Atoms] = (),
    elements: Sequence[str] | None = None,
    model_dtype: str | None = None,
    seed: int = 0,
) -> Conversion:
    """Convert a model of nequip-train, and put a KAN readout in on request.

    Nothing that the file holds is run: the model is built anew by the installed nequip and Allegro
    from the arguments in the file, takes the weights in it, and is what the conversion is compared
    with. With ``trust`` a package's own code is run and compared with instead, which alone tells
    whether versions agree.

    Args:
        path: checkpoint or package.
        trust: whether code in the file may be run.
        readout: what to put in place of upstream's readout; ``None`` keeps it.
        structures: to compare on and to fit to; made up where there are none.
        elements: of structures that are made up; those of the model by default.
        model_dtype: dtype to train and deploy in; the original's where ``None``.
        seed: of new weights and of made-up structures.

    Raises:
        KanMdError: the file cannot be converted, or the converted model has other energies.
    """
    file = read_nequip_file(path, trust=trust)
    backbone, builder = find_builder(file.target)
    type_names = _elements(file.arguments["type_names"])
    upstream = build_upstream(builder, complete_arguments(file.arguments, file.state))
    weights = file.weights({name for name, _ in upstream.named_parameters()})
    given = complete_arguments(file.arguments, weights)
    arguments = own_arguments(backbone, builder, given)
    _load(upstream, weights, given)
    rng = np.random.default_rng(seed)
    names, r_max = elements or type_names, float(arguments["r_max"])
    frames = list(structures) or made_up_structures(names, r_max, rng=rng)

    config = wanted_readout(arguments["readout"], readout)
    dtype_of_file = str(file.arguments["model_dtype"])
    common = {"seed": seed, "model_dtype": "float64", **arguments}
    model = build_model(backbone, **common).eval()
    _copy_weights(model, upstream, backbone)
    whose, note = _described(file, path, trust=trust)
    if file.kind == "package" and trust:
        trained = build_model(backbone, **common | {"model_dtype": dtype_of_file}).eval()
        _copy_weights(trained, upstream, backbone)
        compared, reference = _in_float64(trained), _in_float64(_packaged(path))
    else:
        compared, reference = model, upstream
    energy_error, force_error = compare(compared, _evaluator(reference), frames, whose=whose)
    this = Compared(
        path=path,
        backbone=backbone,
        model=model,
        arguments=common,
        dtype=dtype_of_file,
        copy_weights=partial(_copy_weights, upstream=upstream, backbone=backbone, readout=False),
        frames=frames,
        energy_error=energy_error,
        force_error=force_error,
        compared_with=whose,
        weights="" if file.averages is None else "the exponential moving average",
        note=note,
        made_with=file.versions,
    )
    return finish(
        this,
        config,
        structures=structures,
        elements=elements or type_names,
        model_dtype=model_dtype,
        rng=rng,
    )


def _elements(type_names: Sequence[str]) -> list[str]:
    """Names of the types, which are to be elements.

    Raises:
        KanMdError: one is not.
    """
    strange = [name for name in type_names if name not in chemical_symbols[1:]]
    if strange:
        raise user_error(
            "type names of the model must be element symbols",
            found=", ".join(strange),
            allowed=None,
            remedy="a model with other types cannot be converted",
        )
    return list(type_names)


def _load(
    upstream: GraphModel, state: Mapping[str, torch.Tensor], arguments: Mapping[str, object]
) -> None:
    """Give the installed version's model the weights of the file.

    Energies of types, which earlier versions keep in other shapes, are those of the arguments.
    """
    own = upstream.state_dict()
    weights = {name: value for name, value in state.items() if _ENERGIES not in name}
    for name, value in own.items():
        if _ENERGIES in name:
            kind = name.rsplit(".", 1)[-1]
            numbers = list(arguments[f"per_type_energy_{kind}"].values())
            weights[name] = torch.tensor(numbers, dtype=torch.float64).view_as(value)
    try:
        load_weights(upstream, weights)
    except WeightsDoNotFitError as error:
        raise user_error(
            "weights of the file do not fit the model that its configuration describes",
            found=error,
            allowed=None,
            remedy="convert it where the versions are installed that trained it",
        ) from error


def _copy_weights(
    model: GraphModel, upstream: GraphModel, backbone: str, *, readout: bool = True
) -> None:
    """Copy the weights of upstream's model; those of the readout, as matrices, on request."""
    (slot,) = sites_of(model, backbone)["output"]
    names = {id(module): name for name, module in model.named_modules()}
    inside = f"{names[id(slot.function)]}."
    state = upstream.state_dict()
    kept = {name: value for name, value in state.items() if not name.startswith(inside)}
    own = {n: v for n, v in model.state_dict().items() if n.startswith(inside)}
    load_weights(model, kept | own)
    if readout:
        (old,) = sites_of(upstream, backbone)["output"]
        _copy_readout(slot.function, old.function)


@torch.no_grad()
def _copy_readout(ours: MLP, theirs: torch.nn.Module) -> None:
    """Give a bias-free perceptron the matrices of upstream's, whose scales may be others."""
    matrices = [linear_weight(layer) for layer in _linear_layers(theirs)]
    if len(ours.dims) == 2:  # without nonlinearity: one matrix
        for matrix in matrices[1:]:
            matrices[0] = matrices[0] @ matrix
        matrices = matrices[:1]
    layers = [layer for layer in ours if hasattr(layer, "alpha")]
    for layer, matrix in zip(layers, matrices, strict=True):
        layer.weight.copy_(matrix / layer.alpha.double())


def _linear_layers(function: torch.nn.Module) -> Iterator[torch.nn.Module]:
    inner = function.mlp
    if hasattr(inner, "weights"):  # one product
        yield inner
        return
    yield from (layer for layer in inner if hasattr(layer, "alpha"))


def _described(file: NequIPFile, path: Path, *, trust: bool) -> tuple[str, str]:
    """Whose model is compared with, and what is to be said of it."""
    installed = {name: version(package) for name, package in _PACKAGES.items()}
    whose = f"nequip {installed['nequip']}"
    if file.target.startswith("allegro."):
        whose = f"nequip-allegro {installed['allegro']} and {whose}"
    if file.kind == "package" and trust:
        return f"the code in {path.name}", ""
    others = [
        f"{name} {found}"
        for name, found in file.versions.items()
        if name in installed and found != installed[name]
    ]
    if not others:
        return whose, ""
    note = f"made with {' and '.join(others)}, compared with {whose}"
    if file.kind == "package":
        note += "; --trust compares with the code in the package"
    return whose, note


def _packaged(path: Path) -> GraphModel:
    """The model of a package, by the code in it."""
    from nequip.model.saved_models import ModelFromPackage

    with nequip_settings():
        return ModelFromPackage(str(path))["sole_model"].eval()


def _in_float64(model: GraphModel) -> GraphModel:
    """Let a model compute in float64, with the constants of its own dtype.

    Constants of the layers that float32 has rounded would tell it from one made in float64.
    """
    model.double()
    for module in model.modules():
        for name, value in vars(module).items():
            if value is torch.float32:
                setattr(module, name, torch.float64)
    return model


def _evaluator(model: GraphModel) -> Upstream:
    """What a model of nequip says of a structure that goes nequip's own way to it."""
    type_names = list(model.type_names)
    neighbours = NeighborListTransform(r_max=float(model.metadata["r_max"]))
    types = ChemicalSpeciesToAtomTypeMapper(model_type_names=type_names)

    def said(atoms: ase.Atoms) -> tuple[torch.Tensor, torch.Tensor]:
        with torch_default_dtype(torch.float64):
            out = model(neighbours(types(from_ase(atoms))))
        return (
            out[AtomicDataDict.TOTAL_ENERGY_KEY].detach().flatten(),
            out[AtomicDataDict.FORCE_KEY].detach(),
        )

    return said
