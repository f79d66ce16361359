"""Layers of message passing on operators, as NequIP and MACE have them in common.

    x' = after(update(down(Σ_j R(r_ij) Y(r̂_ij) up(x)_j)) + skip(x))

The sum is one operator (fused convolution, radial networks from tables); ``up`` and ``down`` are
linear maps; ``update`` and ``after`` are what an architecture does with an atom's messages before
and after the skip connection: MACE a product basis and nothing, NequIP nothing and a gate.
Features come in blocks, see :mod:`kan_md.ops.modules`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from nequip.data import AtomicDataDict

from kan_md.ops.chosen_types import ConvolutionOfChosen
from kan_md.ops.modules import BlockLinear, Exchange, Irreps, NoExchange, TypedLinear, as_blocks
from kan_md.tasks.potential_function import NUM_LOCAL_KEY
from kan_md_deploy.passes.message_passing.atoms_per_layer import (
    centres_per_layer,
    kept_rows,
    rows_of_first,
)
from kan_md_deploy.passes.message_passing.convolutions import FusedConvolution


class LayerOnOperators(torch.nn.Module):
    """One layer; see the module.

    Args:
        up: features, types, number of atoms -> blocked features of the neighbours.
        exchange: of these between ranks.
        convolution: of these.
        down: linear maps of the messages.
        update: pieces, edge vectors, edge index, types of neighbours, number of centres [1], types
            of kept rows -> pieces.
        skip: the connection from the layer's input, or None.
        after: pieces, number of kept rows -> pieces.
    """

    def __init__(
        self,
        up: torch.nn.Module,
        exchange: torch.nn.Module,
        convolution: FusedConvolution,
        down: BlockLinear,
        *,
        update: torch.nn.Module,
        skip: Skip | None,
        after: torch.nn.Module,
    ):
        super().__init__()
        self.up = up
        self.exchange = exchange
        self.convolution = convolution.module
        self.down = down
        self.update = update
        self.skip = skip
        self.after = after
        self.is_chosen = isinstance(self.convolution, ConvolutionOfChosen) or update.is_chosen

    def forward(
        self,
        vectors: torch.Tensor,
        x: torch.Tensor,
        index: torch.Tensor,
        types: torch.Tensor,
        of_all: torch.Tensor,
        num_local: torch.Tensor,
        num_centres: torch.Tensor,
        num_kept: int,
    ) -> list[torch.Tensor]:
        """Blocked features -> one [num_kept * (2l+1), channels] per irreps.

        Rows beyond the first ``num_centres`` [1] atoms are without meaning.

        Args:
            vectors: [num_edges, 3] Å.
            x: blocked features of the first atoms.
            index: [2, num_edges].
            types: of the atoms that ``x`` is of.
            of_all: types of all atoms.
            num_local: [1] number of local atoms.
            num_centres: [1] number of atoms to compute.
            num_kept: number of atoms that keep their rows.
        """
        neighbours = self.up(x, types, types.size(0))
        neighbours, neighbour_types = self.exchange(neighbours, types, num_local, of_all)
        kept = types[:num_kept]
        messages = self.convolution(vectors, neighbours, index, neighbour_types, num_centres, kept)
        pieces = self.down(messages, num_kept)
        pieces = self.update(pieces, vectors, index, neighbour_types, num_centres, kept)
        if self.skip is not None:
            pieces = self.skip(pieces, x, types, num_kept)
        return self.after(pieces, num_kept)

    def choose(self, types: list[int]) -> float:
        """Make what depends on the choice of types, see :mod:`kan_md.ops.chosen_types`."""
        errors = torch.tensor([self.convolution.choose(types), self.update.choose(types)])
        return float(errors.max())


class Up(torch.nn.Module):
    """Features of the neighbours by a linear map."""

    def __init__(self, linear: BlockLinear):
        super().__init__()
        self.linear = linear
        self.sizes: list[int] = linear.sizes_out

    def forward(self, x: torch.Tensor, types: torch.Tensor, num_atoms: int) -> torch.Tensor:
        """Blocked features -> blocked features."""
        return as_blocks(self.linear(x, num_atoms))


def exchange_behind(up: torch.nn.Module, *, is_first: bool) -> torch.nn.Module:
    """What brings ghosts' features of the neighbours to a layer: the first one's are known."""
    return NoExchange() if is_first else Exchange(up.sizes)


class TypeFeatures(torch.nn.Module):
    """Features of the neighbours that are scalars of the type alone.

    Args:
        rows: [num_types, channels] float64.
        dtype: of the model.
    """

    def __init__(self, rows: torch.Tensor, *, dtype: torch.dtype):
        super().__init__()
        self.register_buffer("rows", rows.to(dtype))

    def forward(self, x: torch.Tensor, types: torch.Tensor, num_atoms: int) -> torch.Tensor:
        """Blocked features; ``x`` is not looked at."""
        return self.rows[types].view(-1)


class Skip(torch.nn.Module):
    """Adds to the pieces what a layer's own input gives, by maps that depend on the type.

    Args:
        irreps_in: of the layer's input; of a first layer whose input is not looked at: empty.
        outputs: pieces that the maps feed.
        maps: (blocked features, types, number of atoms) -> one tensor per output.
    """

    def __init__(self, irreps_in: Irreps, outputs: list[int], maps: torch.nn.Module):
        super().__init__()
        # TorchScript knows the type of a list by its first entry.
        self.sizes: list[int] = [channels * (2 * degree + 1) for channels, degree in irreps_in]
        self.sizes = self.sizes or [0]
        self.outputs: list[int] = outputs
        self.maps = maps

    def forward(
        self, pieces: list[torch.Tensor], x: torch.Tensor, types: torch.Tensor, num_kept: int
    ) -> list[torch.Tensor]:
        """Pieces of the kept rows, with the connection."""
        x = rows_of_first(x, self.sizes, types.size(0), num_kept)
        added = self.maps(x, types[:num_kept], num_kept)
        for number, output in enumerate(self.outputs):
            pieces[output] = pieces[output] + added[number]
        return pieces


def typed_skip(
    irreps_in: Irreps,
    maps: Mapping[int, tuple[int, torch.Tensor]],
    *,
    dtype: torch.dtype,
    static_shapes: bool,
    attributes: torch.Tensor | None = None,
) -> Skip:
    """A connection by :class:`TypedLinear`.

    Args:
        irreps_in: of the layer's input.
        maps: by output, (input, weight [num_types, channels in, channels out] float64).
        dtype: of the model.
        static_shapes: whether no shape may depend on data.
        attributes: of the types, see there.
    """
    linear = TypedLinear(
        irreps_in,
        list(maps.values()),
        dtype=dtype,
        static_shapes=static_shapes,
        attributes=attributes,
    )
    return Skip(irreps_in, list(maps), linear)


class NoUpdate(torch.nn.Module):
    """Messages stay as they are."""

    is_chosen = False

    def forward(
        self,
        pieces: list[torch.Tensor],
        vectors: torch.Tensor,
        index: torch.Tensor,
        types: torch.Tensor,
        num_centres: torch.Tensor,
        kept: torch.Tensor,
    ) -> list[torch.Tensor]:
        """Give them back."""
        return pieces

    def choose(self, types: list[int]) -> float:
        """There are no tables."""
        return 0.0


class NothingAfter(torch.nn.Module):
    """A layer whose skip connection comes last."""

    def forward(self, pieces: list[torch.Tensor], num_kept: int) -> list[torch.Tensor]:
        """Give the pieces back."""
        return pieces


class LayersOnOperators(torch.nn.Module):
    """Layers that follow each other, each for the atoms that it has to compute.

    Args:
        layers: first one first.
        static_shapes: whether no shape may depend on data.
    """

    def __init__(self, layers: list[LayerOnOperators], *, static_shapes: bool):
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)
        self.rows = kept_rows(static_shapes=static_shapes)
        self._vectors = AtomicDataDict.EDGE_VECTORS_KEY
        self._index = AtomicDataDict.EDGE_INDEX_KEY
        self._types = AtomicDataDict.ATOM_TYPE_KEY
        self._num_local = NUM_LOCAL_KEY

    def forward(self, data: AtomicDataDict.Type, x: torch.Tensor) -> list[list[torch.Tensor]]:
        """What every layer gives: one [num_kept * (2l+1), channels] per irreps.

        Args:
            data: edge vectors and index, atom types, number of local atoms.
            x: blocked features that go into the first layer.
        """
        of_all = data[self._types].view(-1)
        vectors, index, num_local = data[self._vectors], data[self._index], data[self._num_local]
        centres = centres_per_layer(index, num_local, len(self.layers))
        found: list[list[torch.Tensor]] = []
        types = of_all
        for layer in self.layers:
            num_centres = centres.pop(0)
            num_kept = self.rows(num_centres, types.size(0))
            pieces = layer(vectors, x, index, types, of_all, num_local, num_centres, num_kept)
            found.append(pieces)
            x, types = as_blocks(pieces), types[:num_kept]
        return found

    def choose(self, types: list[int]) -> float:
        """Make the tables of some types, and say how good the worst one is."""
        errors: list[float] = []
        for layer in self.layers:
            errors.append(layer.choose(types))
        return float(torch.tensor(errors).max())  # NaN where one is
