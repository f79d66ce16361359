"""Plain torch plain operators of the C++ operators: same arguments, same numbers, any derivative.

They say what an operator computes, and the tests hold the operators to them. They make tensors of
[num_edges, channels] and more, which is what the operators are there to avoid.
"""

from __future__ import annotations

from math import factorial, sqrt

import torch

from kan_md.ops.layout import ConvolutionSpec, block_of


def spherical_harmonics(unit: torch.Tensor, l_max: int) -> torch.Tensor:
    """Real spherical harmonics in e3nn's convention (component normalisation, polar axis y).

    Y_lm = N_lm Q_lm(y) Re|Im (z + ix)^|m| with Q_lm the m-th derivative of Legendre's polynomial
    P_l (Abramowitz & Stegun 8.6.6).

    Args:
        unit: [n, 3] unit vectors.
        l_max: highest degree.

    Returns:
        [n, (l_max + 1)²].
    """
    x, y, z = unit.unbind(1)
    real, imag = [torch.ones_like(x)], [torch.zeros_like(x)]
    for _ in range(l_max):
        real.append(z * real[-1] - x * imag[-1])
        imag.append(z * imag[-1] + x * real[-2])
    columns = []
    for degree in range(l_max + 1):
        row = [torch.empty(0)] * (2 * degree + 1)
        for m in range(degree + 1):
            ratio = factorial(degree - m) / factorial(degree + m)
            norm = sqrt((2 * degree + 1) * (1 if m == 0 else 2) * ratio)
            polar = norm * _legendre_derivative(y, degree, m)
            row[degree + m] = polar * real[m]
            if m > 0:
                row[degree - m] = polar * imag[m]
        columns += row
    return torch.stack(columns, dim=1)


def _legendre_derivative(y: torch.Tensor, degree: int, m: int) -> torch.Tensor:
    """d^m P_l / dy^m from the explicit sum of P_l (Abramowitz & Stegun 22.3.8)."""
    total = torch.zeros_like(y)
    for k in range(degree // 2 + 1):
        power = degree - 2 * k
        if power < m:
            break
        factor = (-1) ** k * factorial(2 * degree - 2 * k)
        factor /= 2**degree * factorial(k) * factorial(degree - k) * factorial(power)
        total = total + factor * factorial(power) / factorial(power - m) * y ** (power - m)
    return total


def hermite(
    lengths: torch.Tensor, pairs: torch.Tensor, table: torch.Tensor, cutoffs: torch.Tensor
) -> torch.Tensor:
    """Quintic Hermite interpolation, as the convolution has it.

    Args:
        lengths: [num_edges], Å.
        pairs: [num_edges], row of the table.
        table: [num_pairs, num_knots, 3, num_functions] of f, h f', h² f''.
        cutoffs: [num_pairs] float64, Å; zero beyond.

    Returns:
        [num_edges, num_functions] in the table's dtype.
    """
    num_knots = table.size(1)
    cutoff = cutoffs[pairs]
    place = lengths.double() * ((num_knots - 1) / cutoff)
    knot = place.detach().long().clamp(0, num_knots - 2)
    t = (place - knot).to(table.dtype).unsqueeze(1)
    up = t**3 * (10 - 15 * t + 6 * t**2)
    weights = (
        1 - up,
        t - 6 * t**3 + 8 * t**4 - 3 * t**5,
        (t**2 - 3 * t**3 + 3 * t**4 - t**5) / 2,
        up,
        -4 * t**3 + 7 * t**4 - 3 * t**5,
        (t**3 - 2 * t**4 + t**5) / 2,
    )
    rows = torch.cat([table[pairs, knot], table[pairs, knot + 1]], dim=1)  # [e, 6, functions]
    value = sum(w * rows[:, s] for s, w in enumerate(weights))
    inside = (lengths.double() < cutoff).unsqueeze(1)
    return torch.where(inside, value, torch.zeros_like(value))


def convolution(
    edge_vectors: torch.Tensor,
    x: torch.Tensor,
    edge_index: torch.Tensor,
    atom_types: torch.Tensor,
    table: torch.Tensor,
    cutoffs: torch.Tensor,
    couplings: torch.Tensor,
    irreps_in: list[int],
    paths: list[int],
    num_knots: int,
    num_centres: torch.Tensor | None = None,
) -> torch.Tensor:
    """out_i[p, m3] = Σ_j Σ_{m1 m2} C^p R^p(r_ij) Y_{m2}(r̂_ij) H_j[m1], per channel.

    The arguments are those of ``kan_md::convolution``, see ops.h.

    Returns:
        1-d, for each output irreps a block [num_atoms, 2 l3 + 1, channels of its paths].
    """
    spec = ConvolutionSpec(
        tuple(zip(irreps_in[::2], irreps_in[1::2], strict=True)),
        tuple(zip(paths[::4], paths[1::4], paths[2::4], paths[3::4], strict=True)),
    )
    if num_centres is not None:
        computed = edge_index[0] < num_centres
        edge_vectors, edge_index = edge_vectors[computed], edge_index[:, computed]
    centre, neighbour = edge_index[0], edge_index[1]
    lengths = edge_vectors.norm(dim=1)
    num_types = round(sqrt(table.size(0)))
    pairs = torch.zeros_like(centre)
    if table.size(0) > 1:
        pairs = atom_types[centre] * num_types + atom_types[neighbour]
    values = unpack_table(table, spec, num_knots)[:, :, :3]  # steps follow from these
    radial = hermite(lengths, pairs, values, cutoffs)
    unit = (edge_vectors / lengths.unsqueeze(1)).to(x.dtype)
    harmonics = spherical_harmonics(unit, max((path[1] for path in spec.paths), default=0))
    num_atoms = len(atom_types)
    sizes = [num_atoms * channels * (2 * degree + 1) for channels, degree in spec.irreps_in]
    inputs = torch.split(x, sizes)
    result: list[list[torch.Tensor]] = [[] for _ in spec.irreps_out]
    start = 0
    for number, (i, l2, l3, output) in enumerate(spec.paths):
        channels, l1 = spec.irreps_in[i]
        tensor = x.new_zeros(2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1)
        for _, m1, m2, m3, value in couplings[couplings[:, 0] == number].tolist():
            tensor[int(m1), int(m2), int(m3)] = value
        feature = inputs[i].view(-1, 2 * l1 + 1, channels)[neighbour]
        y = harmonics[:, l2 * l2 : (l2 + 1) ** 2]
        message = torch.einsum("abc,eak,eb->eck", tensor, feature, y)
        message = message * radial[:, start : start + channels].unsqueeze(1)
        start += channels
        total = x.new_zeros(num_atoms, 2 * l3 + 1, channels)
        result[output].append(total.index_add(0, centre, message))
    return torch.cat([torch.cat(pieces, dim=2).flatten() for pieces in result])


def polynomial(
    a: torch.Tensor,
    atom_types: torch.Tensor,
    coefficients: torch.Tensor,
    program: torch.Tensor,
    components: list[int],
    outputs: list[int],
    num_centres: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sums of monomials in components, per channel; the plain form of ``kan_md::polynomial``.

    Args:
        a: [num_atoms * sum(components), channels], for each entry n of ``components`` a block
            [num_atoms, n, channels].
        atom_types: [num_atoms].
        coefficients: as packed by :func:`kan_md.ops.layout.pack_coefficients`.
        program: see :class:`kan_md.ops.layout.Polynomial`.
        components: rows of the blocks that go in.
        outputs: rows of the blocks that come out.
        num_centres: [1]; the results of atoms after the first ones are zero.

    Returns:
        [num_atoms * sum(outputs), channels].
    """
    channels, num_atoms = a.size(1), len(atom_types)
    blocks = torch.split(a, [num_atoms * n for n in components])
    a = torch.cat(
        [b.view(num_atoms, n, channels) for b, n in zip(blocks, components, strict=True)], dim=1
    )
    per_atom = unpack_coefficients(coefficients, channels)[atom_types]  # [atoms, terms, channels]
    code = iter(program.tolist())
    term = iter(per_atom.unbind(1))
    sums = []
    for _ in range(sum(outputs)):
        total = torch.zeros_like(a[:, 0])
        for _ in range(next(code)):
            first = a[:, next(code)]
            if next(code):
                total = total + next(term) * first
            for _ in range(next(code)):
                second = first * a[:, next(code)]
                if next(code):
                    total = total + next(term) * second
                for _ in range(next(code)):
                    total = total + next(term) * second * a[:, next(code)]
        sums.append(total)
    result = torch.stack(sums, dim=1)  # [num_atoms, sum(outputs), channels]
    if num_centres is not None:
        computed = torch.arange(num_atoms) < num_centres
        result = torch.where(computed.view(-1, 1, 1), result, torch.zeros_like(result))
    result = result.split(outputs, dim=1)  # each [num_atoms, n, channels]
    return torch.cat([block.reshape(-1, channels) for block in result])


def piecewise_sum(
    x: torch.Tensor, pieces: torch.Tensor, inverse_step: torch.Tensor, origin: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Σ_i φ_i(x_i) and its slopes; the plain form of ``kan_md::piecewise_sum``.

    Args:
        x: [num_rows, in].
        pieces: [in, num_pieces, 8], powers of the place inside a piece, six and two zeros; the
            first and the last piece reach to infinity.
        inverse_step: [in], one over the width of a piece.
        origin: number of the piece that starts at x = 0.

    Returns:
        y [num_rows, 1] and dφ/dx [num_rows, in].
    """
    place = x * inverse_step  # from x = 0, where it is exact
    step = place.detach().floor().clamp(-origin, pieces.size(1) - 1 - origin)
    piece = (step + origin).nan_to_num(0.0).long()
    u = place - step
    c = pieces[torch.arange(x.size(1), device=x.device), piece]  # [rows, in, 8]
    value, slope = torch.zeros_like(u), torch.zeros_like(u)
    for power in range(5, -1, -1):
        slope = slope * u + value
        value = value * u + c[..., power]
    return value.sum(1, keepdim=True), slope * inverse_step


def unpack_table(table: torch.Tensor, spec: ConvolutionSpec, num_knots: int) -> torch.Tensor:
    """Undo :func:`pack_table`: [num_pairs, num_knots, 3 or 4, num_functions]."""
    num_pairs, block = table.size(0), block_of(table.dtype)
    of_one = sum(-(-channels // block) * len(numbers) for channels, numbers in spec.groups())
    knot_values = table.size(1) // (of_one * num_knots * block)
    by_path: dict[int, torch.Tensor] = {}
    start = 0
    for channels, numbers in spec.groups():
        num_blocks = -(-channels // block)
        size = num_blocks * num_knots * len(numbers) * knot_values * block
        group = table[:, start : start + size].view(
            num_pairs, num_blocks, num_knots, len(numbers), knot_values, block
        )
        start += size
        group = group.permute(0, 2, 3, 4, 1, 5).flatten(4)[..., :channels]
        for position, number in enumerate(numbers):
            by_path[number] = group[:, :, position]
    return torch.cat([by_path[number] for number in range(len(spec.paths))], dim=3)


def unpack_coefficients(packed: torch.Tensor, channels: int) -> torch.Tensor:
    """Undo :func:`pack_coefficients`."""
    return packed.transpose(1, 2).flatten(2)[..., :channels]
