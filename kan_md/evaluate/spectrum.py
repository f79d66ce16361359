"""The picture of an infrared spectrum, with the lines that an experiment found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kan_md.config.yaml_file import read_mapping
from kan_md.errors import user_error
from kan_md.figures import COLOURS, INK, new_figure, plain_axes, save_figure


@dataclass(frozen=True)
class KnownLines:
    """Lines to compare with.

    Attributes:
        source: where they are from.
        lines: wavenumbers, 1/cm, by name, e.g. a symmetry.
    """

    source: str
    lines: Mapping[str, Sequence[float]]


def read_lines(path: str | Path) -> KnownLines:
    """Read a YAML file with ``source`` and ``lines: {NAME: [wavenumber, ...]}``.

    Raises:
        KanMdError: the file is missing or of another form.
    """
    content = read_mapping(path, keys="source and lines")
    source, lines = content.get("source"), content.get("lines")
    good = (
        content.keys() == {"source", "lines"}
        and isinstance(source, str)
        and isinstance(lines, Mapping)
        and all(isinstance(name, str) and _are_wavenumbers(v) for name, v in lines.items())
    )
    if not good:
        raise user_error(
            f"file of known lines {path}",
            found=", ".join(f"{key}: {value}" for key, value in content.items()) or "nothing",
            allowed="source: TEXT and lines: {NAME: [1/cm, ...]}",
            remedy="see quartz_infrared_lines.yaml of `kan-md inputs DIR`",
        )
    return KnownLines(source=source, lines=lines)


def _are_wavenumbers(values: object) -> bool:
    return (
        isinstance(values, list)
        and bool(values)
        and all(type(v) in (int, float) and 0 < v < float("inf") for v in values)
    )


def plot_spectrum(
    wavenumber: np.ndarray,
    alpha: np.ndarray,
    path: str | Path,
    *,
    title: str = "",
    peaks: Sequence[int] = (),
    known: KnownLines | None = None,
) -> None:
    """Draw a spectrum up to where it ends, from zero.

    Args:
        wavenumber: [n], 1/cm.
        alpha: [n], absorption times refractive index, 1/cm.
        path: of the figure; its ending says in which format.
        title: above it.
        peaks: indices of points that get their wavenumber.
        known: lines to compare with, drawn where they are, named by their source.
    """
    figure = new_figure(7.0, 3.8)
    axis = figure.subplots()
    axis.plot(wavenumber, alpha / 1000, color=COLOURS[0], linewidth=1.4, label="calculated")
    end = _end(wavenumber, alpha)
    if known is not None:
        end = max(end, 1.05 * max(value for lines in known.lines.values() for value in lines))
    for index in peaks:
        axis.annotate(
            f"{wavenumber[index]:.0f}",
            (wavenumber[index], alpha[index] / 1000),
            (0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=COLOURS[0],
        )
    axis.set_xlim(0, min(end, wavenumber[-1]))
    axis.set_ylim(0, 1.12 * alpha.max() / 1000 or 1.0)
    axis.set_xlabel("wavenumber (1/cm)")
    axis.set_ylabel("absorption × index (10³/cm)")
    axis.set_title(title, fontsize=10)
    plain_axes(axis)
    if known is not None:
        _draw_lines(axis, known)
    save_figure(figure, path)


def _draw_lines(axis, known: KnownLines) -> None:
    styles = ("--", ":", "-.", (0, (6, 1)))
    for number, (name, lines) in enumerate(known.lines.items()):
        colour = (*COLOURS[1:], INK)[number % len(COLOURS)]
        style = {"color": colour, "linewidth": 1.0, "linestyle": styles[number % len(styles)]}
        for index, value in enumerate(lines):
            label = f"{name}: {', '.join(f'{v:g}' for v in lines)}" if index == 0 else None
            axis.axvline(value, label=label, zorder=1, **style)
    # On white, as the lines go from the bottom to the top.
    legend = axis.legend(fontsize=8, loc="best", framealpha=0.9, edgecolor="none")
    legend.set_title(f"lines: {known.source}", prop={"size": 8})
    legend.set_alignment("left")


def _end(wavenumber: np.ndarray, alpha: np.ndarray) -> float:
    """Where all but 0.2 % of the area and all that is seen lies before, in steps of 200 / cm.

    Noise has area far beyond the last line, but less than a hundredth of a line's height.
    """
    cumulated = np.cumsum(np.maximum(alpha, 0.0))
    end = wavenumber[np.searchsorted(cumulated, 0.998 * cumulated[-1])]
    seen = np.flatnonzero(alpha > 0.01 * alpha.max())
    end = min(end, wavenumber[seen[-1]]) if seen.size else end
    return min(wavenumber[-1], 200.0 * np.ceil(1.1 * end / 200.0))
