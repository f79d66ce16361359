"""How the operators want their constants: channel blocks, table order, pieces, programs.

The C++ kernels work on cache lines of channels, 64 bytes each. Tables are stored so that a kernel
that walks one line of channels through all atoms reads one contiguous slice:

    one pair's table: for each input irreps, for each block of its channels,
                      [num_knots, paths of these irreps, 4, block]

Files that were deployed before have 3 numbers where these have 4, see :func:`with_steps`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch

BLOCK_BYTES = 64
PIECE_ROW = 8
"""Numbers per piece of a univariate function, kPieceRow in piecewise.h."""
OUTPUT_BLOCK = 8
"""``kan_md::piecewise_values`` has a multiple of so many outputs."""


def block_of(dtype: torch.dtype) -> int:
    """Channels in a cache line."""
    return BLOCK_BYTES // torch.empty(0, dtype=dtype).element_size()


@dataclass(frozen=True)
class ConvolutionSpec:
    """Irreps and paths of one convolution.

    Features come in blocks: one 1-d tensor, for each irreps [num_atoms, 2l+1, channels].

    Attributes:
        irreps_in: (channels, l) of the neighbours' features.
        paths: (input, l2, l3, output): number of the input irreps, degree of the harmonics, degree
            and number of the output irreps; sorted by input. The paths of one output irreps put
            their channels side by side.
    """

    irreps_in: tuple[tuple[int, int], ...]
    paths: tuple[tuple[int, int, int, int], ...]

    def channels_of(self, path: int) -> int:
        """Channels of a path: those of its input."""
        return self.irreps_in[self.paths[path][0]][0]

    @property
    def irreps_out(self) -> list[tuple[int, int]]:
        """(channels, l) of the output irreps."""
        found: dict[int, tuple[int, int]] = {}
        for number, (_, _, degree, output) in enumerate(self.paths):
            channels = found.get(output, (0, degree))[0]
            found[output] = (channels + self.channels_of(number), degree)
        return [found[output] for output in sorted(found)]

    @property
    def num_functions(self) -> int:
        """Radial functions: one per path and channel."""
        return sum(self.channels_of(p) for p in range(len(self.paths)))

    @property
    def flat_irreps(self) -> list[int]:
        """``irreps_in`` as the operator's list."""
        return [number for pair in self.irreps_in for number in pair]

    @property
    def flat_paths(self) -> list[int]:
        """``paths`` as the operator's list."""
        return [number for path in self.paths for number in path]

    def groups(self) -> list[tuple[int, list[int]]]:
        """Channels and numbers of the paths of each input that has any."""
        found: dict[int, list[int]] = {}
        for number, path in enumerate(self.paths):
            found.setdefault(path[0], []).append(number)
        return [(self.irreps_in[i][0], numbers) for i, numbers in found.items()]


def with_steps(values: torch.Tensor) -> torch.Tensor:
    """Add to every knot how far the function goes up to the next one; code for TorchScript, too.

    A slope stands on these differences. Taken from values that are already rounded to float32, they
    have lost as many digits as there are knots: 257 knots made of 6e-8 a force error of 1e-5.

    Args:
        values: [num_pairs, num_knots, 3, num_functions] float64 of f, h f', h² f''.

    Returns:
        [num_pairs, num_knots, 4, num_functions] of f, h f', h² f'', f of the next - f; the last
        knot's step is zero.
    """
    step = torch.zeros_like(values[:, :, :1])
    step[:, :-1] = values[:, 1:, :1] - values[:, :-1, :1]
    return torch.cat([values, step], dim=2)


def pack_table(values: torch.Tensor, spec: ConvolutionSpec) -> torch.Tensor:
    """Order a table for the convolution.

    Args:
        values: [num_pairs, num_knots, 4, num_functions] of :func:`with_steps`, functions path by
            path.
        spec: irreps and paths.

    Returns:
        [num_pairs, table_size].
    """
    groups = [(channels, len(numbers)) for channels, numbers in spec.groups()]
    return pack_groups(values, groups, block_of(values.dtype))


def pack_groups(values: torch.Tensor, groups: list[tuple[int, int]], block: int) -> torch.Tensor:
    """The same in terms of numbers, code for TorchScript.

    Args:
        values: as above; the paths of one group follow each other.
        groups: channels and number of paths of each group.
        block: channels in a cache line.
    """
    num_pairs, start = values.size(0), 0
    pieces: list[torch.Tensor] = []
    for channels, paths in groups:
        width = channels * paths
        group = values[:, :, :, start : start + width].unflatten(3, (paths, channels))
        group = torch.nn.functional.pad(group, [0, -channels % block])
        group = group.unflatten(4, (-1, block)).permute(0, 4, 1, 3, 2, 5)
        pieces.append(group.reshape(num_pairs, -1))
        start += width
    return torch.cat(pieces, dim=1).contiguous()


def pack_pieces(coefficients: torch.Tensor) -> torch.Tensor:
    """Pieces of univariate functions for ``kan_md::piecewise_sum``, zeros up to the row it reads.

    Args:
        coefficients: [in, num_pieces, 6], powers of the place inside a piece.

    Returns:
        [in, num_pieces, 8].
    """
    return torch.nn.functional.pad(coefficients, (0, PIECE_ROW - coefficients.size(2))).contiguous()


def pack_outputs(coefficients: list[torch.Tensor]) -> torch.Tensor:
    """Pieces for ``kan_md::piecewise_values``, with outputs of zero up to whole blocks.

    Args:
        coefficients: per output [in, num_pieces, 6], powers of the place inside a piece.

    Returns:
        [in, num_pieces, 6, outputs].
    """
    padding = -len(coefficients) % OUTPUT_BLOCK
    return torch.nn.functional.pad(torch.stack(coefficients, dim=3), (0, padding)).contiguous()


Monomial = tuple[int, ...]
"""Components, ascending, of one product; one to three of them."""


@dataclass(frozen=True)
class Polynomial:
    """Outputs as sums of monomials, in the order in which the operator walks them.

    Attributes:
        program: int32, per output ``n_i { i, has_i, n_j { j, has_ij, n_k { k } } }``.
        terms: (output, monomial) per coefficient.
    """

    program: torch.Tensor
    terms: tuple[tuple[int, Monomial], ...]


def make_polynomial(outputs: list[list[Monomial]]) -> Polynomial:
    """Nest the monomials of each output.

    The nest costs one operation per monomial and one per distinct prefix. Components are free to
    take any place in the nest; the most frequent ones go outside, which keeps the prefixes few.

    Args:
        outputs: monomials of each output, components ascending.
    """
    program: list[int] = []
    terms: list[tuple[int, Monomial]] = []
    for output, monomials in enumerate(outputs):
        counts = Counter(i for monomial in monomials for i in set(monomial))
        rank = {i: (-count, i) for i, count in counts.items()}
        nest: dict[int, dict[int, list[int]]] = {}
        plain: dict[Monomial, Monomial] = {}
        for monomial in monomials:
            key = tuple(sorted(monomial, key=rank.__getitem__))
            plain[key] = tuple(sorted(monomial))
            inner = nest.setdefault(key[0], {})
            if len(key) > 1:
                innermost = inner.setdefault(key[1], [])
                if len(key) > 2:
                    innermost.append(key[2])
        program.append(len(nest))
        for i, inner in nest.items():
            program += [i, int((i,) in plain), len(inner)]
            if (i,) in plain:
                terms.append((output, plain[(i,)]))
            for j, innermost in inner.items():
                program += [j, int((i, j) in plain), len(innermost)]
                if (i, j) in plain:
                    terms.append((output, plain[(i, j)]))
                program += innermost
                terms += [(output, plain[(i, j, k)]) for k in innermost]
    return Polynomial(torch.tensor(program, dtype=torch.int32), tuple(terms))


def pack_coefficients(values: torch.Tensor) -> torch.Tensor:
    """Order coefficients for the polynomial operator.

    Args:
        values: [num_types, num_terms, channels].

    Returns:
        [num_types, num_blocks, num_terms, block].
    """
    return pack_terms(values, block_of(values.dtype))


def pack_terms(values: torch.Tensor, block: int) -> torch.Tensor:
    """The same, code for TorchScript.

    Args:
        values: as above.
        block: channels in a cache line.
    """
    padded = torch.nn.functional.pad(values, [0, -values.size(2) % block])
    return padded.unflatten(2, (-1, block)).transpose(1, 2).contiguous()
