"""Tables on intervals of any width follow functions with kinks."""

from __future__ import annotations

import pytest
import torch

from kan_md.kan.layer import KANLayer
from kan_md.ops.interval_tables import locate_cells, make_interval_table
from kan_md.ops.tables import BoundNotReachedError
from kan_md_deploy.passes.tables.non_smooth_distances import find_non_smooth_distances

CUTOFF, KINK = 3.0, 1.2345
KINK_PLACE = torch.tensor([KINK], dtype=torch.float64)


def envelope(r):
    return (1.0 - r / CUTOFF) ** 3


def kinked(r):
    """Continuously differentiable, with a jump of the curvature."""
    beyond = (r - KINK).clamp(min=0.0)
    columns = torch.stack([torch.cos(3.0 * r), torch.exp(-r) + 5.0 * beyond**2], dim=1)
    return envelope(r).unsqueeze(1) * columns


def evaluate(table, r):
    """Values and slopes of the first pair."""
    at = torch.searchsorted(table.ends[0], r, right=True) - 1
    width = table.ends[0][at + 1] - table.ends[0][at]
    t = ((r - table.ends[0][at]) / width).unsqueeze(1)
    powers = table.powers[0][at]
    order = torch.arange(6, dtype=torch.float64)
    value = (t**order).unsqueeze(1) @ powers
    slope = (order * t ** (order - 1).clamp_min(0)).unsqueeze(1) @ powers
    return value.squeeze(1), slope.squeeze(1) / width.unsqueeze(1)


def test_table_with_its_kink_is_within_the_bound_everywhere():
    table = make_interval_table([kinked], [CUTOFF], [KINK_PLACE], bound=1e-9)
    r = torch.linspace(0.05, CUTOFF - 1e-9, 5001, dtype=torch.float64).requires_grad_(True)
    exact = kinked(r)
    value, slope = evaluate(table, r.detach())
    for column in (0, 1):
        (gradient,) = torch.autograd.grad(exact[:, column].sum(), r, retain_graph=True)
        assert (value[:, column] - exact[:, column]).abs().max() < 1e-8
        assert (slope[:, column] - gradient).abs().max() < 1e-8


def test_unknown_kink_costs_intervals_and_a_tight_bound_is_refused():
    known = make_interval_table([kinked], [CUTOFF], [KINK_PLACE], bound=1e-6)
    unknown = make_interval_table([kinked], [CUTOFF], [torch.tensor([])], bound=1e-6)
    assert unknown.powers.size(1) > known.powers.size(1) + 5
    with pytest.raises(BoundNotReachedError, match=r"intervals of a radial table, got \d+ or more"):
        make_interval_table([kinked], [CUTOFF], [torch.tensor([])], bound=1e-9, most_intervals=64)


def test_value_slope_and_curvature_end_at_zero():
    table = make_interval_table([kinked], [CUTOFF], [KINK_PLACE], bound=1e-6)
    last = table.powers[0, -1]  # f(1), f'(1), f''(1) of a polynomial in the place
    order = torch.arange(6, dtype=torch.float64)
    for weight in (torch.ones(6).double(), order, order * (order - 1)):
        assert (weight @ last).abs().max() < 1e-12


def test_cells_lead_to_the_interval_of_every_distance():
    pairs = [torch.cat([KINK_PLACE, KINK_PLACE + 1e-4]), torch.tensor([])]
    table = make_interval_table([kinked, kinked], [CUTOFF, CUTOFF], pairs, bound=1e-6)
    cells = locate_cells(table.ends)
    for pair in range(2):
        starts = CUTOFF * torch.arange(cells.size(1), dtype=torch.float64) / cells.size(1)
        at = cells[pair].long()
        assert (table.ends[pair][at] <= starts).all()
        assert (table.ends[pair][at + 1] > starts).all()


@pytest.mark.parametrize("basis", ["gaussian", "bspline"])
def test_kinks_are_where_an_input_crosses_a_place_of_its_grid(basis):
    layer = KANLayer(1, 1, basis=basis, num_basis=5, grid_range=(-1.0, 1.0)).double()
    with torch.no_grad():
        layer.input_gain.fill_(2.0)
    # x = r - 1, so the grid of gain * x covers r from 0.5 to 1.5
    found = find_non_smooth_distances(lambda r: layer((r - 1.0).unsqueeze(1)), 2.0).sort().values
    steps = 2 if basis == "bspline" else 1
    expected = torch.linspace(0.5, 1.5, steps + 1, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_smooth_function_has_no_kinks():
    assert len(find_non_smooth_distances(kinked, CUTOFF)) == 0
