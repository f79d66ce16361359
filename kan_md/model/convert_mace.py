"""From a pickled model of mace-torch to model.pth."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import ase
import numpy as np
import torch
from e3nn.nn import Activation
from e3nn.o3 import SphericalHarmonics
from e3nn.util.codegen import CodeGenMixin

from kan_md.backbones.build import build_model, discontinuity
from kan_md.backbones.mace import import_mace
from kan_md.backbones.mace_weights import build_arguments_of, copy_weights, readout_kind_of
from kan_md.backbones.nequip_settings import nequip_settings
from kan_md.backbones.readout import ReadoutConfig
from kan_md.errors import user_error
from kan_md.model.conversion import (
    Compared,
    Conversion,
    Upstream,
    compare,
    finish,
    made_up_structures,
    wanted_readout,
)
from kan_md.model.file_kind import MACE_COMPILED, recognise, wrong_file
from kan_md.model.graph import periodic_edges

_PICKLES = ("mace", "pickled", "old_pickle", "weights")
"""Kinds of files that may hold a model of mace-torch."""


def load_mace(path: Path, *, trust: bool) -> torch.nn.Module:
    """Unpickle a model of mace-torch, with all of its heads.

    Args:
        path: file by mace_run_train.
        trust: unpickling runs whatever code the file holds; only with the user's consent.

    Raises:
        KanMdError: no consent, no such file, or not such a model.
    """
    if not path.is_file():
        raise user_error("model file not found", found=path, allowed=None, remedy="check the path")
    kind = recognise(path)
    if kind.name == "torchscript":  # mace-torch's own, or of someone's: nothing to convert
        kind = replace(kind, what=MACE_COMPILED)
    if kind.name not in _PICKLES:
        raise wrong_file(path, "convertible", kind=kind)
    if not trust:
        raise user_error(
            f"{path} is a pickled file, and opening it runs the code in it",
            found="no consent",
            allowed=None,
            remedy="add --trust if you know where it comes from",
        )
    import_mace()
    try:
        with _read_older_e3nn():
            model = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a pickle of anything can fail in any way
        raise user_error(
            f"{path} cannot be unpickled",
            found=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            allowed=None,
            remedy="give the .model file of mace_run_train",
        ) from error
    if not isinstance(model, torch.nn.Module) or not hasattr(model, "interactions"):
        raise user_error(
            f"{path} is not a MACE model",
            found=type(model).__name__,
            allowed="MACE, ScaleShiftMACE",
            remedy="give the .model file of mace_run_train",
        )
    _add_newer_attributes(model)
    return model.eval()


@contextmanager
def _read_older_e3nn() -> Iterator[None]:
    """Let e3nn read what its versions before 0.5 pickled, as those do that mace-torch asks for.

    They wrote generated code as TorchScript bytes; since then the bytes come with a word that says
    so. The word is put in while unpickling.
    """
    present = CodeGenMixin.__setstate__

    def with_kind_of_code(self: CodeGenMixin, state: dict) -> None:
        code = state.get("__codegen__")
        if code is not None:
            code = {
                name: ("torchscript", value) if isinstance(value, bytes) else value
                for name, value in code.items()
            }
            state = {**state, "__codegen__": code}
        present(self, state)

    CodeGenMixin.__setstate__ = with_kind_of_code
    try:
        yield
    finally:
        CodeGenMixin.__setstate__ = present


def _add_newer_attributes(model: torch.nn.Module) -> None:
    """Give modules pickled by an older e3nn the attributes that the present one runs with."""
    harmonics = model.spherical_harmonics
    if not hasattr(harmonics, "sph_func"):  # no weights are lost
        model.spherical_harmonics = SphericalHarmonics(
            harmonics.irreps_out,
            normalize=harmonics.normalize,
            normalization=harmonics.normalization,
        )
    for module in model.modules():
        if isinstance(module, Activation) and not hasattr(module, "paths"):
            module.paths = [
                (mul, (ir.l, ir.p), act)
                for (mul, ir), act in zip(module.irreps_in, module.acts, strict=True)
            ]


def _one_head(model: torch.nn.Module, head: str | None) -> torch.nn.Module:
    heads = list(getattr(model, "heads", None) or ["Default"])
    if head is None:
        return model
    if head not in heads:
        raise user_error(
            "head of the MACE model",
            found=repr(head),
            allowed=", ".join(heads),
            remedy="choose one with --head",
        )
    if len(heads) == 1:
        return model
    from mace.tools.scripts_utils import remove_pt_head

    with nequip_settings(), warnings.catch_warnings():
        # mace-torch hands a tensor to torch.tensor here; the numbers are right.
        warnings.filterwarnings("ignore", message="To copy construct from a tensor")
        torch.set_default_dtype(next(model.parameters()).dtype)
        return remove_pt_head(model, head)


def convert_mace(
    path: Path,
    *,
    trust: bool,
    head: str | None = None,
    readout: ReadoutConfig | Mapping | str | None = None,
    structures: Sequence[ase.Atoms] = (),
    elements: Sequence[str] | None = None,
    model_dtype: str | None = None,
    seed: int = 0,
) -> Conversion:
    """Convert a model of mace_run_train, and put KAN readouts in on request.

    With ``readout`` absent the model keeps upstream's readouts and its energies. With a KAN
    readout, the KANs beside the linear readouts start as the zero function, and the last one is
    fitted to upstream's last readout on the atoms of the structures, by least squares.

    Args:
        path: pickled model.
        trust: see :func:`load_mace`.
        head: which of several heads to keep.
        readout: what to put in place of upstream's readouts; ``None``, and what they are anyway
            (``mlp``, behind a single layer ``linear``) keeps them.
        structures: to compare on and to fit to; made up where there are none.
        elements: of structures that are made up; those of the model by default.
        model_dtype: dtype to train and deploy in; the original's where ``None``.
        seed: of new weights and of made-up structures.

    Raises:
        KanMdError: the file cannot be converted, or the converted model has other energies.
    """
    whole = load_mace(path, trust=trust)
    dtype = str(next(whole.parameters()).dtype).removeprefix("torch.")
    whole = whole.double()  # to be compared beyond the rounding of float32
    original = _one_head(whole, head).eval()
    arguments = build_arguments_of(original)
    type_names = arguments["type_names"]
    rng = np.random.default_rng(seed)
    names, r_max = elements or type_names, float(arguments["r_max"])
    frames = list(structures) or made_up_structures(names, r_max, rng=rng)

    kind = readout_kind_of(original)
    config = wanted_readout(kind, readout)
    arguments |= {"seed": seed, "model_dtype": "float64", "readout": kind}
    model = build_model("mace", **arguments).eval()
    copy_weights(model, original)
    energy_error, force_error = compare(model, _evaluator(whole, head), frames, whose="mace-torch")
    compared = Compared(
        path=path,
        backbone="mace",
        model=model,
        arguments=arguments,
        dtype=dtype,
        copy_weights=partial(copy_weights, source=original),
        frames=frames,
        energy_error=energy_error,
        force_error=force_error,
        compared_with=f"mace-torch {version('mace-torch')}",
        note=discontinuity("mace", arguments) or "",
    )
    return finish(
        compared,
        config,
        structures=structures,
        elements=elements or type_names,
        model_dtype=model_dtype,
        rng=rng,
    )


def _evaluator(original: torch.nn.Module, head: str | None) -> Upstream:
    """What mace-torch says of a structure by one of a model's heads."""
    heads = list(getattr(original, "heads", None) or [])
    chosen = {} if head is None else {"head": torch.tensor([heads.index(head)])}

    def said(atoms: ase.Atoms) -> tuple[torch.Tensor, torch.Tensor]:
        out = original(_mace_input(original, atoms) | chosen)
        return out["energy"], out["forces"]

    return said


def _mace_input(original: torch.nn.Module, atoms: ase.Atoms) -> dict[str, torch.Tensor]:
    """A structure as mace-torch takes it, in float64."""
    numbers = original.atomic_numbers.tolist()
    edges = periodic_edges(atoms, float(original.r_max))
    cell = torch.from_numpy(atoms.cell.array.copy())
    types = torch.tensor([numbers.index(number) for number in atoms.numbers])
    return {
        "positions": torch.from_numpy(atoms.get_positions()),
        "cell": cell,
        "node_attrs": torch.nn.functional.one_hot(types, len(numbers)).double(),
        "edge_index": edges.edge_index,
        "unit_shifts": edges.edge_cell_shift,
        "shifts": edges.edge_cell_shift @ cell,
        "batch": torch.zeros(len(atoms), dtype=torch.int64),
        "ptr": torch.tensor([0, len(atoms)]),
    }
