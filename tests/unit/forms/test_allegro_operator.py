"""The operator that trains Allegro: its second derivatives, its sums, and who leaves it aside."""

import pytest
import torch
from nequip.data import AtomicDataDict
from test_forms import assert_same, cells, make_batch, make_model, results

from kan_md.errors import KanMdError
from kan_md.forms.choice import Form
from kan_md.ops import is_built, load, operators_in_layers


@pytest.fixture(autouse=True)
def operators():
    """Layers compute by the operators, which are what is tested here."""
    if not is_built():
        pytest.skip("needs the operators: kan-md build")
    load()
    if not hasattr(torch.ops.kan_md, "allegro_training"):
        pytest.skip("needs operators of these sources: kan-md build --force")
    with operators_in_layers():
        yield


@pytest.fixture
def count_calls(monkeypatch):
    """Names of the operator's calls since then."""
    calls = []
    for name in ("allegro_training", "allegro_training_backward"):
        operator = getattr(torch.ops.kan_md, name)

        def call(*args, name=name, operator=operator):
            calls.append(name)
            return operator(*args)

        monkeypatch.setattr(torch.ops.kan_md, name, call)
    return calls


def test_a_step_is_one_call_and_one_of_its_derivative(count_calls):
    model, batch = make_model(num_layers=2), make_batch(cells())
    form = Form(model)
    assert str(form) == "fast: one operator on a CPU"
    results(form, model, batch)
    assert count_calls == ["allegro_training", "allegro_training_backward"]


WIDE = {
    "num_tensor_features": 20,
    "num_scalar_features": 22,
    "allegro_mlp_hidden_layers_width": 18,
    "scalar_embed_mlp_hidden_layers_width": 35,
}
OTHER_SIZES = {
    "l 4, fourier": {"l_max": 4, "num_layers": 1, "readout": {"basis": "fourier", "num_basis": 6}},
    "l 3, splines of order 5": {"l_max": 3, "readout": {"basis": "bspline", "order": 5}},
    "splines of order 1": {"readout": {"basis": "bspline", "order": 1}},
    "functions alone": {"readout": {"base": "none", "input_gain": "none"}},
    "three layers": {"num_layers": 3},
    "Gaussians of the pair": {"readout": {"sites": ["two_body"], "num_basis": 12}},
    "splines in the latents": {
        "num_layers": 3,
        "readout": {"sites": ["latent", "output"], "basis": "bspline", "order": 2},
    },
    "Fourier everywhere, in two layers": {
        "readout": {"sites": ["all"], "basis": "fourier", "num_basis": 6, "hidden": [9]}
    },
    "three layers of Gaussians alone": {
        "readout": {"base": "none", "input_gain": "none", "hidden": [18, 3]}
    },
    "splines everywhere, projected": {
        "readout": {"sites": ["all"], "basis": "bspline", "projection": 3, "hidden": [4]}
    },
    "a readout of ten Gaussians": {"readout": {"num_basis": 10}},
    "deep": {
        "allegro_mlp_hidden_layers_depth": 3,
        "scalar_embed_mlp_hidden_layers_depth": 3,
        "readout": "mlp",
    },
}


@pytest.mark.parametrize("changes", OTHER_SIZES.values(), ids=OTHER_SIZES)
def test_models_wider_than_a_vector_and_beyond_their_grids_are_upstreams(changes, count_calls):
    model, batch = make_model(**{**WIDE, "num_layers": 2, **changes}), make_batch(cells())
    with torch.no_grad():  # inputs of the readout leave its grids
        for name, parameter in model.named_parameters():
            parameter.mul_(3.0 if "latents" in name else 1.0)
    found, expected = (results(call, model, batch) for call in (Form(model), model))
    assert len(count_calls) == 2
    assert_same(found, expected)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"allegro_mlp_nonlinearity": "mish"},
            "its latent network 1 is no perceptron with SiLU and no KAN",
        ),
        (
            {"readout": {"kind": "mlp", "nonlinearity": "mish"}},
            "its readout is no perceptron with SiLU and no KAN",
        ),
    ],
)
def test_what_the_operator_does_not_know_is_left_to_torch(changes, reason, count_calls):
    model = make_model(**changes)
    form = Form(model)
    assert str(form) == f"fast: products of weights are formed once per step; no operator, {reason}"
    form(make_batch(cells()[:1]))
    assert not count_calls


def test_gradient_of_a_loss_in_energies_alone():
    model, batch = make_model(num_layers=2), make_batch(cells())

    def gradients(call):
        model.zero_grad()
        call(dict(batch))["total_energy"].square().sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    assert_same(gradients(Form(model)), gradients(model))


def test_second_derivative_by_positions_is_upstreams():
    model, batch = make_model(num_layers=2), make_batch(cells()[:1])
    key = AtomicDataDict.POSITIONS_KEY

    def hessian_times_vector(call):
        positions = batch[key].clone().requires_grad_()
        forces = call(batch | {key: positions})["forces"]
        vector = torch.linspace(-1, 1, forces.numel(), dtype=forces.dtype).view_as(forces)
        return {"product": torch.autograd.grad(forces, positions, vector)[0]}

    assert_same(hessian_times_vector(Form(model)), hessian_times_vector(model))


def test_third_derivatives_say_what_to_do():
    model, batch = make_model(), make_batch(cells()[:1])
    loss = Form(model)(dict(batch))["forces"].square().sum()
    parameter = next(model.parameters())
    (gradient,) = torch.autograd.grad(loss, parameter, create_graph=True)
    with pytest.raises(KanMdError, match=r"third derivatives .* set training\.form: upstream"):
        gradient.square().sum().backward()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_do_not_depend_on_threads_or_runs(dtype):
    batch = make_batch([cells()[2] * (4, 4, 3), *cells()])
    assert batch["edge_index"].shape[1] > 4096  # several parts, of which threads take some each
    model = make_model(dtype, num_layers=2, l_max=2)
    form = Form(model)
    threads = torch.get_num_threads()
    try:
        found = []
        for number in (1, 1, 2, 3):
            torch.set_num_threads(number)
            found.append(results(form, model, batch))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        for name, value in found[0].items():
            if name in ("total_energy", "atomic_energy", "forces", "stress"):
                continue  # torch's own sums over edges
            assert torch.equal(value, other[name]), name


def test_fifty_steps_have_upstreams_losses():
    batch, losses = make_batch(cells()), {}
    energies = make_model(num_layers=2)(dict(batch))["total_energy"].detach()
    for form in ("fast", "upstream"):
        model = make_model(num_layers=2)
        call, optimizer = Form(model, form), torch.optim.Adam(model.parameters(), lr=3e-3)
        losses[form] = []
        for _ in range(50):
            optimizer.zero_grad()
            out = call(dict(batch))
            loss = sum(out[key].square().mean() for key in ("forces", "stress"))
            loss = loss + (out["total_energy"] - energies).square().mean()
            loss.backward()
            optimizer.step()
            losses[form].append(loss.detach())
    fast, upstream = (torch.stack(losses[form]) for form in ("fast", "upstream"))
    assert upstream[-1] < 0.9 * upstream[0]
    torch.testing.assert_close(fast, upstream, rtol=1e-8, atol=0)
