"""Infrared absorption of currents that are known in closed form."""

import json

import numpy as np
import pytest
import typer
from ase.units import _c, _e, _eps0, _k
from typer.testing import CliRunner

from kan_md.cli import infrared as command
from kan_md.errors import KanMdError
from kan_md.evaluate import spectrum
from kan_md.evaluate.infrared import Current, absorption, read_current

STEP = 0.004  # ps


def oscillating(wavenumber, number=4000):
    time = STEP * np.arange(number)
    phase = 2 * np.pi * wavenumber * 100 * _c * time * 1e-12
    values = np.stack([np.cos(phase), np.sin(phase), 0 * phase], axis=1)
    return Current(values, step=STEP, volume=900.0, temperature=300.0)


@pytest.mark.parametrize("wavenumber", [120.0, 480.0, 1080.0])
def test_an_oscillation_absorbs_at_its_wavenumber(wavenumber):
    x, alpha = absorption(oscillating(wavenumber), resolution=15.0)
    assert x[alpha.argmax()] == pytest.approx(wavenumber, abs=2.0)
    above = x[alpha > 0.5 * alpha.max()]
    assert above.max() - above.min() == pytest.approx(15.0, abs=3.0)


@pytest.mark.parametrize("resolution", [5.0, 40.0])
def test_the_area_obeys_the_sum_rule(resolution):
    rng = np.random.default_rng(0)
    current = Current(rng.normal(size=(2000, 3)), step=STEP, volume=500.0, temperature=250.0)
    x, alpha = absorption(current, resolution=resolution)
    area = (alpha.sum() - 0.5 * (alpha[0] + alpha[-1])) * 100 * (x[1] - x[0]) * 100 * 2 * np.pi * _c
    mean_square = (current.values**2).sum(1).mean() * (_e * 1e-10 / 1e-12) ** 2
    expected = np.pi * mean_square / (6 * _eps0 * _c * 500e-30 * _k * 250.0)
    assert area == pytest.approx(expected, rel=1e-6)


def write(path, current):
    time = STEP * np.arange(len(current.values))
    rows = np.column_stack([np.arange(len(time)), time, current.values, np.full(len(time), 300.0)])
    text = "# volume 900.0 A^3\n# step time J T\n"
    path.write_text(text + "\n".join(" ".join(f"{v:.9g}" for v in row) for row in rows) + "\n")


def test_command_finds_the_peak_and_draws_it(tmp_path):
    write(tmp_path / "current.dat", oscillating(800.0, 1500))
    app = typer.Typer()
    command.register(app)
    output = tmp_path / "spectrum.png"
    result = CliRunner().invoke(app, [str(tmp_path / "current.dat"), "-o", str(output), "--json"])
    assert result.exit_code == 0, result.output
    (peak,) = json.loads(result.stdout)["peaks"]
    assert peak["wavenumber"] == pytest.approx(800.0, abs=3.0)
    assert output.read_bytes().startswith(b"\x89PNG")
    assert output.with_suffix(".csv").read_text().startswith("wavenumber_per_cm,")


def test_mistakes_are_told(tmp_path):
    path = tmp_path / "current.dat"
    with pytest.raises(KanMdError, match="current file not found"):
        read_current(path)
    path.write_text("0 1 2\n")
    with pytest.raises(KanMdError, match="got 1 lines and no volume"):
        read_current(path)
    write(path, oscillating(800.0, 100))
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:50] + lines[53:]))
    with pytest.raises(KanMdError, match="times must increase evenly"):
        read_current(path)
    with pytest.raises(KanMdError, match="resolution must be > 0"):
        absorption(oscillating(800.0, 100), resolution=0.0)


def test_noise_does_not_stretch_the_axis_nor_is_the_legend_over_the_curve(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(spectrum, "save_figure", lambda figure, path: drawn.append(figure))
    clean = oscillating(480.0)
    noise = 0.1 * np.random.default_rng(0).normal(size=clean.values.shape)
    current = Current(clean.values + noise, step=STEP, volume=900.0, temperature=300.0)
    x, alpha = absorption(current)
    known = spectrum.KnownLines("an experiment", {"E": [470.0, 700.0]})
    spectrum.plot_spectrum(x, alpha, tmp_path / "a.pdf", known=known)
    (axis,) = drawn[0].axes
    assert 700.0 < axis.get_xlim()[1] < 1000.0  # 4,000 to the Nyquist limit
    drawn[0].canvas.draw()
    box = axis.get_legend().get_window_extent()
    curve = axis.transData.transform(np.column_stack([x, alpha / 1000]))
    assert not any(box.contains(*point) for point in curve)
