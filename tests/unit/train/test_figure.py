"""The learning curve: whole epochs, the best one, and what the validation is of."""

import pytest

from kan_md.tasks.targets import POTENTIAL_TARGETS
from kan_md.train import figure
from kan_md.train.figure import epochs_done, plot_learning_curves

STEPS = 40


def rows(number, *, last=STEPS):
    """A run whose errors halve with every epoch; its last epoch may be cut short."""
    found = []
    for epoch in range(number):
        step = STEPS * epoch + (last if epoch == number - 1 else STEPS)
        errors = {"loss": 1.0, "energy_mae": 0.02, "forces_mae": 0.2}
        row = {"epoch": epoch, "step": step}
        for name, value in errors.items():
            row |= {f"{part}_{name}": value / 2**epoch for part in ("train", "val")}
        found.append(row)
    return found


@pytest.fixture
def draw(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(figure, "save_figure", lambda figure, path: drawn.append(figure))

    def plot(given, **options):
        settings = {"steps_per_epoch": STEPS, "best_epoch": 2, "averaged": True} | options
        plot_learning_curves(given, POTENTIAL_TARGETS, tmp_path / "curve.png", **settings)
        return drawn[-1]

    return plot


def curve(axis, label):
    (line,) = [line for line in axis.lines if line.get_label() == label]
    return list(line.get_xdata()), list(line.get_ydata())


def test_a_part_of_an_epoch_is_no_whole_one():
    assert epochs_done(rows(3), STEPS) == [1.0, 2.0, 3.0]
    assert epochs_done(rows(3, last=10), STEPS) == [1.0, 2.0, 2.25]
    assert epochs_done(rows(1, last=10), STEPS) == [0.25]


def test_errors_are_in_the_units_of_the_tables(draw):
    loss, energy, forces = draw(rows(3)).axes
    assert loss.get_ylabel() == "loss"
    assert energy.get_ylabel() == "energy MAE (meV/atom)"
    assert forces.get_ylabel() == "forces MAE (meV/Å)"
    assert curve(energy, "val") == ([1.0, 2.0, 3.0], [20.0, 10.0, 5.0])


def test_a_cut_epoch_has_an_open_marker_where_it_ended(draw):
    _, energy, _ = draw(rows(3, last=10)).axes
    assert curve(energy, "val") == ([1.0, 2.0], [20.0, 10.0])
    assert curve(energy, "part") == ([2.25], [5.0])


def test_ticks_are_plain_numbers_and_whole_epochs(draw):
    """Errors within one power of ten, where a logarithmic axis has one tick or none."""
    _, energy, _ = draw(rows(3)).axes
    energy.figure.canvas.draw()
    low, high = energy.get_ylim()
    ticks = [float(tick.get_text()) for tick in energy.get_yticklabels()]
    assert sum(low <= tick <= high for tick in ticks) >= 3
    assert all(tick == int(tick) for tick in energy.get_xticks())


def test_the_best_epoch_is_marked_on_its_validation_error(draw):
    found = draw(rows(3), best_epoch=2)
    assert curve(found.axes[1], "best") == ([2.0], [10.0])
    texts = [text.get_text() for text in found.legends[0].get_texts()]
    assert "epoch 2, the best: kept in model.pth" in texts


@pytest.mark.parametrize(
    ("averaged", "said"), [(True, "running average of the weights, EMA"), (False, "weights after")]
)
def test_the_legend_says_what_weights_were_judged(draw, averaged, said):
    texts = [text.get_text() for text in draw(rows(3), averaged=averaged).legends[0].get_texts()]
    assert any(text.startswith(f"validation ({said}") for text in texts)
