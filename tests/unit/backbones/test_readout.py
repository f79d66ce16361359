"""Output blocks: zero at zero, sizes, settings, and what is said of wrong ones."""

import pytest
import torch

from kan_md.backbones.readout import (
    MLP,
    ReadoutConfig,
    count_parameters,
    make_readout,
    parse_readout,
)
from kan_md.errors import KanMdError

KINDS = [
    *({"kind": "kan", "basis": basis} for basis in ("gaussian", "bspline", "fourier")),
    {"kind": "kan", "hidden": (6,)},
    {"kind": "kan", "projection": 5},
    {"kind": "mlp"},
    {"kind": "mlp", "hidden": (7, 3)},
    {"kind": "linear"},
]


@pytest.mark.parametrize("settings", KINDS)
def test_readout_of_zero_is_exactly_zero(settings):
    readout = make_readout(12, 2, ReadoutConfig(**settings), generator=torch.Generator())
    assert readout(torch.zeros(3, 12)).tolist() == [[0.0, 0.0]] * 3
    assert readout(torch.ones(3, 12)).abs().min() > 0.0


@pytest.mark.parametrize("settings", KINDS)
def test_readout_keeps_the_scale_of_its_input(settings):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(500, 64, generator=generator)
    spreads = [
        float(make_readout(64, 1, ReadoutConfig(**settings), generator=generator)(x).detach().std())
        for _ in range(20)
    ]
    assert 0.4 < sum(spreads) / len(spreads) < 2.0


@pytest.mark.parametrize("sizes", [(64, 1), (128, 1), (24, 8), (64, 64)])
@pytest.mark.parametrize("basis", ["gaussian", "bspline", "fourier"])
def test_mlp_has_about_as_many_parameters_as_the_kan(sizes, basis):
    generator = torch.Generator()
    kan = make_readout(*sizes, ReadoutConfig(basis=basis), generator=generator)
    mlp = make_readout(*sizes, ReadoutConfig(kind="mlp"), generator=generator)
    # One hidden unit more or less is the finest step.
    assert abs(count_parameters(kan) - count_parameters(mlp)) <= sum(sizes) / 2


def test_equal_generators_give_equal_weights_and_others_do_not():
    def draw(seed: int, kind: str) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        readout = make_readout(5, 1, ReadoutConfig(kind=kind), generator=generator)
        return torch.cat([parameter.flatten() for parameter in readout.parameters()])

    for kind in ("kan", "mlp", "linear"):
        assert torch.equal(draw(1, kind), draw(1, kind))
        assert not torch.equal(draw(1, kind), draw(2, kind))


def test_mlp_is_its_formula():
    mlp = MLP([3, 4, 2], generator=torch.Generator().manual_seed(0)).double()
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3)
    first, second = mlp[0].weight, mlp[2].weight
    hidden = x @ first / 3**0.5
    expected = (hidden * torch.sigmoid(hidden)) @ second * (2.0 / 4.0) ** 0.5
    # The factors are float32 numbers in upstream's layer unless the default dtype says otherwise.
    torch.testing.assert_close(mlp(x), expected, rtol=1e-6, atol=1e-6)


def test_settings_may_be_a_kind_a_mapping_or_absent():
    assert parse_readout(None) == ReadoutConfig()
    assert parse_readout("linear") == ReadoutConfig(kind="linear")
    assert parse_readout({"sites": "all"}).sites == ("all",)
    assert parse_readout({"sites": ["two_body", "latent"]}).covers("latent")
    assert not parse_readout({"sites": ["two_body", "latent"]}).covers("output")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"knd": "kan"}, "unknown configuration key, got readout.knd; allowed: kind, basis"),
        ({"kind": "tree"}, "got 'tree'; allowed: 'kan', 'mlp', 'linear' or 'finnis_sinclair'"),
        ({"basis": "wavelet"}, "readout.basis.*got 'wavelet'; allowed: 'gaussian'"),
        ({"sites": "input"}, "readout.sites.0.*got 'input'; allowed: 'output'"),
        (
            {"sites": []},
            "readout.sites: at least one site of output, two_body, .* got \\[\\]; change",
        ),
        ({"sites": 3}, "readout.sites, got 3; allowed: list;"),
        ({"grid_range": [1.0]}, r"readout.grid_range, got \[1.0\]; allowed: more values"),
        ({"grid_range": [-1.0, 0.0, 1.0]}, "readout.grid_range, .*; allowed: list of 2 at most"),
        ({"hidden": [0]}, "hidden widths must be >= 1"),
        ({"num_basis": 1}, "readout.num_basis, got 1; allowed: >= 2"),
        ({"basis": "bspline", "order": 5, "num_basis": 5}, "num_basis > order"),
        ({"grid_range": [1.0, 2.0]}, "0 inside"),
        (3, "configuration key readout, got 3; allowed: mapping"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(KanMdError, match=message) as caught:
        parse_readout(settings)
    assert "\n" not in str(caught.value)
