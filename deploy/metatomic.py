"""One file of metatomic from model.pth: for its ASE calculator and the engines that it has.

The file holds the TorchScript module of a portable deployment, which needs nothing but libtorch,
with the graph passes that such a file takes. Its energies know their first derivatives only: the
deployed function gives dE/d(edge vector), and E + Σ dE/dx · (x - x₀) at x = x₀, with x₀ a constant,
has that value and these slopes. Of energies by atom the sum has the right slopes, not each one.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional  # noqa: UP035 - metatomic compares annotations

import torch

from kan_md.contract import CHOICE_METHOD, Dtype, Manifest
from kan_md.errors import KanMdError, user_error
from kan_md.files import written_whole
from kan_md_deploy.archive import read_manifest
from kan_md_deploy.pipeline import deploy

try:
    from metatensor.torch import Labels, TensorBlock, TensorMap
    from metatomic.torch import (
        AtomisticModel,
        ModelCapabilities,
        ModelMetadata,
        ModelOutput,
        NeighborListOptions,
        System,
    )
except ImportError as _error:
    raise user_error(
        "the package metatomic-torch, which writes its files",
        found=" ".join(str(_error).split()) or type(_error).__name__,
        allowed=None,
        remedy="pip install metatomic-torch",
    ) from _error

SUFFIX = ".pt"
"""By which metatomic's engines know their files."""


@dataclass(frozen=True)
class MetatomicFile:
    """What came of :func:`export_metatomic`.

    Attributes:
        path: of the written file.
        dtype: of the weights.
        passes: optimisation passes that are in the file.
    """

    path: Path
    dtype: str
    passes: tuple[str, ...]


def export_metatomic(model_path: Path, path: Path, *, dtype: Dtype | None = None) -> MetatomicFile:
    """Write a potential for metatomic.

    Args:
        model_path: ``model.pth``.
        path: to write, ending in ``.pt``; replaced where it exists.
        dtype: of the weights; as :func:`kan_md_deploy.deploy` chooses where ``None``.

    Raises:
        KanMdError: the model is not a potential that a portable TorchScript file can hold, or a
            file cannot be read or written.
    """
    with tempfile.TemporaryDirectory() as folder:
        choices = {"backend": "torchscript", "operators": "portable", "static_shapes": False}
        file = deploy(model_path, Path(folder) / "model.deployed.pth", dtype=dtype, **choices)
        manifest = read_manifest(file)
        function = torch.jit.load(str(file), map_location="cpu")
        if hasattr(function, CHOICE_METHOD):
            raise _too_many_elements(model_path, manifest)
        wrapped = AtomisticModel(
            _Energies(function, manifest).eval(), _metadata(manifest), _capabilities(manifest)
        )
        # Through a folder of its own: torch's writer ends the process where a disk is full.
        saved = Path(folder) / f"model{SUFFIX}"
        wrapped.save(str(saved))
        with written_whole(path) as temporary:
            shutil.copyfile(saved, temporary)
    return MetatomicFile(path, manifest.dtype, tuple(manifest.passes))


def _too_many_elements(model_path: Path, manifest: Manifest) -> KanMdError:
    return user_error(
        f"{model_path} makes its tables when elements are chosen, which metatomic does not do",
        found=f"{len(manifest.type_names)} elements",
        allowed=None,
        remedy="keep some of them with kan-md convert --elements",
    )


def _metadata(manifest: Manifest) -> ModelMetadata:
    passes = ", ".join(manifest.passes) or "none"
    return ModelMetadata(
        name=f"kan-md {manifest.backbone}",
        description=f"{manifest.dtype} weights; passes: {passes}; first derivatives only",
    )


def _capabilities(manifest: Manifest) -> ModelCapabilities:
    return ModelCapabilities(
        outputs={"energy": ModelOutput(unit="eV", sample_kind="atom")},
        atomic_types=list(manifest.atomic_numbers),
        interaction_range=float(manifest.num_layers) * float(manifest.r_max),
        length_unit="Angstrom",
        supported_devices=["cpu"],
        dtype="float64",  # of positions and energies, whatever the weights have
    )


class _Energies(torch.nn.Module):
    """metatomic's interface over the deployed function.

    Args:
        function: compiled forward of :mod:`kan_md.contract`.
        manifest: of its file.
    """

    def __init__(self, function: torch.jit.ScriptModule, manifest: Manifest):
        super().__init__()
        self.function = function
        self.neighbours = NeighborListOptions(
            cutoff=float(manifest.r_max), full_list=True, strict=True
        )
        type_of = torch.full((max(manifest.atomic_numbers) + 1,), -1)
        type_of[list(manifest.atomic_numbers)] = torch.arange(len(manifest.atomic_numbers))
        self.register_buffer("type_of", type_of)

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:  # noqa: UP006
        """All pairs within the cutoff, in both directions."""
        return [self.neighbours]

    def forward(
        self,
        systems: List[System],  # noqa: UP006 - metatomic compares annotations
        outputs: Dict[str, ModelOutput],  # noqa: UP006
        selected_atoms: Optional[Labels] = None,  # noqa: UP045
    ) -> Dict[str, TensorMap]:  # noqa: UP006
        """Energies, eV, by system or by atom, of the selected atoms."""
        results: dict[str, TensorMap] = {}
        if "energy" not in outputs:
            return results
        energies: list[torch.Tensor] = []
        samples: list[torch.Tensor] = []
        for number, system in enumerate(systems):
            selected = torch.arange(len(system), device=system.positions.device)
            if selected_atoms is not None:
                chosen = selected_atoms.column("system") == number
                selected = selected_atoms.column("atom")[chosen].to(torch.int64)
            of_atoms = self.energies(system, selected)
            if outputs["energy"].sample_kind == "atom":
                energies.append(of_atoms)
                samples.append(torch.stack([torch.full_like(selected, number), selected], dim=1))
            else:
                energies.append(of_atoms.sum().view(1))
                samples.append(torch.full((1, 1), number, device=selected.device))
        names = ["system", "atom"] if outputs["energy"].sample_kind == "atom" else ["system"]
        device = self.type_of.device
        nothing: list[Labels] = []
        block = TensorBlock(
            values=torch.cat(energies).view(-1, 1),
            samples=Labels(names, torch.cat(samples).to(torch.int32)),
            components=nothing,
            properties=Labels(["energy"], torch.zeros(1, 1, dtype=torch.int32, device=device)),
        )
        keys = Labels(["_"], torch.zeros(1, 1, dtype=torch.int32, device=device))
        results["energy"] = TensorMap(keys, [block])
        return results

    def energies(self, system: System, selected: torch.Tensor) -> torch.Tensor:
        """Energies of the selected atoms, [num_selected], whose sum has the right slopes."""
        num_atoms, num_selected = len(system), selected.size(0)
        if num_selected == 0:
            return system.positions.sum(1)[:0]
        # The deployed function sums the energies of the first atoms.
        is_selected = torch.zeros(num_atoms, dtype=torch.bool, device=selected.device)
        is_selected[selected] = True
        order = torch.cat([selected, torch.nonzero(~is_selected).view(-1)])
        place = torch.empty_like(order)
        place[order] = torch.arange(num_atoms, device=order.device)
        pairs = system.get_neighbor_list(self.neighbours)
        vectors = pairs.values.view(-1, 3)
        first = place[pairs.samples.column("first_atom").to(torch.int64)]
        second = place[pairs.samples.column("second_atom").to(torch.int64)]
        centres, by_centre = torch.sort(first, stable=True)
        vectors, second = vectors[by_centre], second[by_centre]
        values, slopes = self.function(
            vectors.detach(),
            torch.stack([centres, second]),
            self.type_of[system.types.to(torch.int64)][order],
            torch.tensor([num_selected], device=order.device),
        )
        linear = (slopes.detach() * (vectors - vectors.detach())).sum(1)  # zeros with slopes
        # Pairs of other atoms act through the features of selected ones: any of these takes them.
        owner = torch.where(centres < num_selected, centres, torch.zeros_like(centres))
        energies = values.detach().view(-1)[:num_selected]
        return energies.index_add(0, owner, linear)
