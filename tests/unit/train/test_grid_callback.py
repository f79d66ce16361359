"""The grid-fit callback at work in a Lightning training loop."""

import lightning
import pytest
import torch
from nequip.train import EMALightningModule
from nequip.train.ema import EMAWeights
from pytorch_optimizer import SOAP

from kan_md.errors import KanMdError
from kan_md.kan import KAN
from kan_md.train.grid_callback import GridFitCallback


class Regression(lightning.LightningModule):
    """Fits a KAN to sums of sines whose inputs do not fill the grid."""

    def __init__(self):
        lightning.LightningModule.__init__(self)
        generator = torch.Generator().manual_seed(1)
        self.model = KAN([2, 1], basis="bspline", num_basis=11, generator=generator)
        x = torch.randn(64, 2, generator=generator) * torch.tensor([0.2, 5.0])
        self.data = torch.utils.data.TensorDataset(x, torch.sin(x).sum(1, keepdim=True))

    def train_dataloader(self):
        return torch.utils.data.DataLoader(self.data, batch_size=32)

    def training_step(self, batch, batch_idx):
        return (self.model(batch[0]) - batch[1]).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class AveragedRegression(Regression, EMALightningModule):
    """The same with nequip's moving average, whose own constructor wants a whole data set-up."""

    def __init__(self):
        Regression.__init__(self)
        self.ema = EMAWeights(self.model, decay=0.9)
        self.ema.update_parameters(self.model)

    training_step = Regression.training_step
    val_dataloader = Regression.train_dataloader  # never run, but Lightning asks for it
    configure_optimizers = Regression.configure_optimizers
    on_train_epoch_end = lightning.LightningModule.on_train_epoch_end


def run(module, callback, steps, **options):
    trainer = lightning.Trainer(
        max_steps=steps,
        callbacks=[callback],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        limit_val_batches=0,
        **options,
    )
    trainer.fit(module)
    return trainer


def test_grids_move_to_the_activations_at_the_first_step():
    module, callback = Regression(), GridFitCallback(steps=(0,), blend=1.0)
    run(module, callback, steps=1)
    low, high = module.model.layers[0].grid_ends()
    x = module.data.tensors[0][:32] * module.model.layers[0].input_gain
    slack = 0.26 * module.model.layers[0].grid_step
    assert ((x.amax(0) - high).abs() <= slack).all()
    assert ((x.amin(0) - low).abs() <= slack).all()
    assert callback.fits[0]["model.layers.0"].moved.all()
    assert not module.model.layers[0]._forward_pre_hooks


def test_later_fits_keep_the_function():
    seen = []
    module, callback = Regression(), GridFitCallback(steps=(1,), blend=1.0)
    original = callback.on_train_batch_end

    def compare(trainer, module, outputs, batch, batch_idx):
        before = module.model(batch[0])
        original(trainer, module, outputs, batch, batch_idx)
        seen.append((module.model(batch[0]) - before).abs().max().item())

    callback.on_train_batch_end = compare
    run(module, callback, steps=3)
    assert callback.fits[1]["model.layers.0"].moved.any()
    assert max(seen) < 1e-5  # float32


def test_moments_of_the_old_basis_go_but_not_how_large_gradients_are():
    module, callback = Regression(), GridFitCallback(steps=(1,))
    original = callback.on_train_batch_end
    states = []

    def note(trainer, module, *rest):
        original(trainer, module, *rest)
        state = trainer.optimizers[0].state[module.model.layers[0].coefficients]
        states.append({key: value.clone() for key, value in state.items()})

    callback.on_train_batch_end = note
    run(module, callback, steps=2)
    before, after = states
    moved = callback.fits[1]["model.layers.0"].moved
    assert moved.any()
    assert not after["exp_avg"][:, moved].any()
    squares = after["exp_avg_sq"][:, moved]
    assert (squares > 0.9 * before["exp_avg_sq"][:, moved].amax()).any()
    assert torch.equal(squares, squares.amax(dim=-1, keepdim=True).expand_as(squares))
    assert after["step"] == 2


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, SOAP])
def test_a_fit_late_in_training_is_followed_by_small_steps(optimizer):
    """Adam that has forgotten everything goes one learning rate far with every coefficient."""
    module = Regression()
    layer = module.model.layers[0]
    module.configure_optimizers = lambda: optimizer(module.parameters(), lr=0.05)
    with torch.no_grad():
        layer.input_gain.fill_(0.05)  # far too small, so that its grids will move

    callback = GridFitCallback(steps=(), every=20)
    original = callback.on_train_batch_end
    seen = []

    def note(*arguments):
        original(*arguments)
        seen.append(layer.coefficients.detach().clone())

    callback.on_train_batch_end = note
    run(module, callback, steps=45)
    (step,) = callback.fits  # 2 steps to an epoch: the 40th
    assert callback.fits[step]["model.layers.0"].moved.any()
    first_after = (seen[step + 1] - seen[step]).abs().max()
    assert first_after < 0.03  # of a learning rate of 0.05


def test_the_moving_average_follows_with_its_own_function():
    module, callback = AveragedRegression(), GridFitCallback(steps=(2,), blend=1.0)
    layer = module.model.layers[0]
    original = callback.on_train_batch_end
    changes = []

    def averaged(x):
        module.ema.swap_parameters(module.model)
        y = module.model(x)
        module.ema.swap_parameters(module.model)
        return y.detach()

    def compare(trainer, module, outputs, batch, batch_idx):
        near = batch[0] * torch.tensor([1.0, 0.1])  # where the old spline has its grid
        step, before, raw = layer.grid_step.clone(), averaged(near), module.model(near)
        original(trainer, module, outputs, batch, batch_idx)
        if not torch.equal(layer.grid_step, step):
            changes.append((averaged(near) - before).abs().max().item())
            assert (before - raw).abs().max() > 1e-3  # the two had grown apart

    callback.on_train_batch_end = compare
    run(module, callback, steps=4)
    assert module.ema.is_holding_ema_weights
    assert len(changes) == 1
    assert changes[0] < 1e-5


def test_steps_that_are_done_stay_done_on_resume():
    callback = GridFitCallback(steps=(0, 4))
    run(Regression(), callback, steps=2)
    resumed = GridFitCallback(steps=(0, 4))
    resumed.load_state_dict(callback.state_dict())
    module = Regression()
    run(module, resumed, steps=2)  # counts from 0 again here
    assert resumed.fits == {}


@pytest.mark.parametrize(("empty", "fitted_for"), [(1, [0]), (3, [2])])
def test_the_fit_waits_for_a_batch_with_inputs(empty, fitted_for):
    module, callback = Regression(), GridFitCallback(steps=(0, 2), blend=1.0)
    states = []

    def step(batch, batch_idx):
        states.append(callback.state_dict())
        rows = 0 if len(states) <= empty else len(batch[0])  # edges of isolated atoms: none
        return (module.model(batch[0][:rows]).sum() - batch[1].sum()).square()

    module.training_step = step
    run(module, callback, steps=empty + 1)
    assert states[-1] == {"done": [], "due": list(range(0, empty, 2))}  # what a resumed run is told
    assert list(callback.fits) == fitted_for
    assert callback.fits[fitted_for[0]]["model.layers.0"].moved.all()  # freely, as at step 0
    assert callback.state_dict()["due"] == []


def test_accumulated_gradients_fit_once_per_step():
    callback = GridFitCallback(steps=(0,))
    run(Regression(), callback, steps=1, accumulate_grad_batches=2)
    assert list(callback.fits) == [0]


def test_grids_follow_every_few_epochs_until_a_share_of_the_budget():
    module = AveragedRegression()
    progress = lambda trainer: trainer.global_step / 20  # noqa: E731 - 2 steps to an epoch
    callback = GridFitCallback(steps=(0,), every=2, until=0.7, progress=progress)
    layer = module.model.layers[0]
    original = callback.on_train_batch_end
    changes = []

    def stray(trainer, module, outputs, batch, batch_idx):
        inputs = batch[0] + torch.tensor([0.0, 0.5])
        grid, before = layer.grid_step.clone(), module.model(inputs).detach()
        original(trainer, module, outputs, batch, batch_idx)
        if trainer.global_step > 1 and not torch.equal(layer.grid_step, grid):
            change = module.model(inputs).detach() - before
            changes.append((change.abs().max() / before.std()).item())
        with torch.no_grad():
            layer.input_gain.mul_(1.4)  # inputs leave their grids

    callback.on_train_batch_end = stray
    run(module, callback, steps=20)
    assert list(callback.fits) == [0, 4, 8, 12]
    assert all(fits["model.layers.0"].moved.all() for fits in callback.fits.values())
    assert len(changes) == 3
    assert max(changes) < 0.2
    assert callback.state_dict()["done"] == [0]


def test_a_model_without_kan_layers_is_left_alone():
    module, callback = Regression(), GridFitCallback()
    module.model = torch.nn.Linear(2, 1)
    run(module, callback, steps=2)
    assert callback.fits == {}


def test_layers_that_cannot_be_watched_are_an_error():
    module = Regression()
    kan = module.model
    state = dict(kan.named_parameters()), dict(kan.named_buffers())
    stateless = KAN([2, 1], basis="bspline", num_basis=11)
    module.training_step = lambda batch, batch_idx: (
        (torch.func.functional_call(stateless, state, (batch[0],)) - batch[1]).square().mean()
    )
    with pytest.raises(KanMdError, match=r"model\.layers\.0 was not seen in a training step"):
        run(module, GridFitCallback(), steps=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": (5, 2)}, "steps of the grid fit, got .*increasing"),
        ({"steps": (-1,)}, "steps of the grid fit"),
        ({"every": 0}, "every of the grid fit, got 0; allowed: integers from 1"),
        ({"max_samples": 1}, "max_samples of the grid fit, got 1"),
        ({"blend": -0.1}, "blend, got -0.1"),
        ({"quantile": 0.7}, "quantile, got 0.7"),
    ],
)
def test_wrong_arguments_are_refused_at_once(options, message):
    with pytest.raises(KanMdError, match=message):
        GridFitCallback(**options)
