"""A KAN survives every compiler that a model passes through, zero at zero included."""

import e3nn.util.jit
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from kan_md.kan import BASES, KAN

DTYPES = [torch.float32, torch.float64]
EVERY_BASIS = [(basis, DTYPES[number % 2]) for number, basis in enumerate(BASES)]
"""And every dtype, for what traces: it is slow, and the same for all dtypes."""
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def seeded():
    return torch.Generator().manual_seed(3)


def energy_and_force(module, x):
    x = x.detach().requires_grad_()
    y = module(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), slope


def assert_equal_functions(found, kan, *, dtype, rows=(1, 5, 40)):
    for number in rows:
        x = 2.0 * torch.randn(number, 4, dtype=dtype, generator=seeded())
        for value, reference in zip(
            energy_and_force(found, x), energy_and_force(kan, x), strict=True
        ):
            torch.testing.assert_close(
                value, reference, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]
            )
        assert not found(torch.zeros(number, 4, dtype=dtype)).any()


@pytest.mark.parametrize("compiler", [torch.jit.script, e3nn.util.jit.script])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("basis", BASES)
def test_torchscript(basis, dtype, compiler):
    kan = KAN([4, 3, 1], basis=basis, generator=seeded()).to(dtype)
    assert_equal_functions(compiler(kan), kan, dtype=dtype)


@pytest.mark.parametrize("basis", BASES)
def test_frozen_torchscript_survives_a_file(basis, tmp_path):
    kan = KAN([4, 3, 1], basis=basis, generator=seeded()).eval()
    path = tmp_path / "kan.pt"
    torch.jit.freeze(torch.jit.script(kan)).save(path)
    assert_equal_functions(torch.jit.load(path), kan, dtype=torch.float32)


@pytest.mark.parametrize(("basis", "dtype"), EVERY_BASIS)
def test_export_with_any_number_of_points(basis, dtype):
    kan = KAN([4, 3, 1], basis=basis, generator=seeded()).to(dtype)
    x = torch.randn(6, 4, dtype=dtype, generator=seeded())
    shapes = ({0: torch.export.Dim("num_points")},)
    program = torch.export.export(kan, (x,), dynamic_shapes=shapes)
    assert_equal_functions(program.module(), kan, dtype=dtype, rows=(2, 5, 40))


@pytest.mark.parametrize(("basis", "dtype"), EVERY_BASIS)
def test_make_fx_through_the_force(basis, dtype):
    kan = KAN([4, 3, 1], basis=basis, generator=seeded()).to(dtype)
    x = torch.randn(6, 4, dtype=dtype, generator=seeded())

    state = dict(kan.state_dict())

    def function(x, state):
        return energy_and_force(lambda x: torch.func.functional_call(kan, state, (x,)), x)

    traced = make_fx(function, tracing_mode="symbolic")(x, state)
    other = 2.0 * torch.randn(17, 4, dtype=dtype, generator=seeded())
    for value, reference in zip(traced(other, state), function(other, state), strict=True):
        torch.testing.assert_close(value, reference, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("basis", BASES)
def test_compile_traces_forward_and_backward(basis):
    torch.compiler.reset()
    kan = KAN([4, 1], basis=basis, generator=seeded())
    compiled = torch.compile(kan, backend="aot_eager", fullgraph=True, dynamic=True)
    assert_equal_functions(compiled, kan, dtype=torch.float32, rows=(5, 40))


def test_inductor_keeps_zero_at_zero():
    torch.compiler.reset()
    kan = KAN([4, 1], basis="bspline", generator=seeded())
    compiled = torch.compile(kan, fullgraph=True)
    with torch.no_grad():
        x = torch.randn(6, 4, generator=seeded())
        torch.testing.assert_close(compiled(x), kan(x))
        assert not compiled(torch.zeros(6, 4)).any()
