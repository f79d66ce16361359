"""MACE's radial functions of pairs of atoms, and these with their slopes by the length."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from kan_md.backbones.mace_modules import MACEEdgeEmbedding
from kan_md.forms.edge_functions import EdgeFunctions, has_operator
from kan_md.forms.radial_jets import jets_of


class RadialJets(NamedTuple):
    """Values, then slopes by the length.

    Attributes:
        radial: [2, num_pairs, functions].
        cutoff: [2, num_pairs, 1] where it is no part of these.
    """

    radial: torch.Tensor
    cutoff: torch.Tensor | None


class RadialFunctions:
    """Of a model.

    Args:
        embedding: the adapter's.

    Attributes:
        dtype: of the model.
    """

    def __init__(self, embedding: MACEEdgeEmbedding):
        self.embedding = (embedding,)
        self.dtype = embedding._dtype
        self.bessel = _plain_bessel(embedding.radial_embedding)

    def of_pairs(self, one_hot: torch.Tensor, index: torch.Tensor) -> FunctionsOfPairs:
        """For pairs of atoms.

        Args:
            one_hot: [num_atoms, types].
            index: [2, num_pairs], centres and neighbours.
        """
        return FunctionsOfPairs(self, one_hot, index)


class FunctionsOfPairs:
    """Of the pairs of a batch; some transforms of the length depend on their elements.

    Attributes:
        harmonics: irreps of the harmonics that the model has beside.
    """

    def __init__(self, functions: RadialFunctions, one_hot: torch.Tensor, index: torch.Tensor):
        (embedding,) = functions.embedding
        self.harmonics = embedding.spherical_harmonics.irreps_out
        self._functions, self._embedding = functions, embedding
        self._one_hot, self._index = one_hot, index

    def __call__(self, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Radial functions [num_pairs, functions] of lengths [num_pairs, 1], Å, and the cutoff."""
        return self._embedding.radial_embedding(
            lengths.to(self._functions.dtype),
            self._one_hot,
            self._index.flip(0),
            self._embedding.atomic_numbers,
        )

    def jets(self, vectors: torch.Tensor) -> RadialJets:
        """Both for vectors [num_pairs, 3]; no gradient by these."""
        vectors = vectors.detach()
        lengths = torch.linalg.norm(vectors, dim=1, keepdim=True)
        if self._functions.bessel is not None and has_operator(vectors):
            return RadialJets(self._bessel_jets(vectors, vectors / lengths), None)
        functions = jets_of(lambda r: torch.cat(_present(*self(r)), dim=1), lengths)
        if self._embedding.radial_embedding.apply_cutoff:
            return RadialJets(functions, None)
        return RadialJets(functions[..., :-1], functions[..., -1:])

    def _bessel_jets(self, vectors: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
        functions, factor = self._functions.bessel
        pair = torch.zeros(len(vectors), dtype=torch.int64)
        jets = [
            torch.ops.kan_md.edge_functions(
                vectors, along, pair, *functions, self._functions.dtype
            )[0]
            for along in (None, unit)
        ]
        return torch.stack(jets).mul_(factor)


def _present(radial: torch.Tensor, cutoff: torch.Tensor | None) -> list[torch.Tensor]:
    return [radial] if cutoff is None else [radial, cutoff]


def _plain_bessel(radial: torch.nn.Module) -> tuple[EdgeFunctions, float] | None:
    """The same functions but for a factor as the operator has them; None where it has not."""
    bessel, cutoff = radial.bessel_fn, radial.cutoff_fn
    if (
        hasattr(radial, "distance_transform")
        or not radial.apply_cutoff
        or type(bessel).__name__ != "BesselBasis"
        or bessel.bessel_weights.requires_grad
    ):
        return None
    r_max, count = float(cutoff.r_max), bessel.bessel_weights.numel()
    expected = torch.arange(1, count + 1, dtype=torch.float64) * (math.pi / r_max)
    if not torch.allclose(bessel.bessel_weights.double(), expected, rtol=1e-6):
        return None
    functions = EdgeFunctions(
        inverse_cutoffs=torch.tensor([1.0 / r_max], dtype=torch.float64),
        matrices=torch.empty(0, dtype=torch.float64),
        l_max=0,
        num_bessels=count,
        power=int(cutoff.p),
    )
    return functions, float(bessel.prefactor) * math.pi / r_max
