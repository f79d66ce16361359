"""Formulas for learned functions: the nearest of a small library, and how near it is.

A form g enters as c + a g(b x + d), with all four numbers by least squares over the quantiles of
the arguments that the function meets, so that R² is that of the distribution, not of an interval.
Most functions are lines for the greater part, and a line explains much of nearly any of them. So
a second R² counts only what a line leaves over, and it decides whether a formula is found. A
formula says what a function looks like where there were arguments; it never replaces it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from kan_md.evaluate.functions import LearnedFunction

IS_LINE = 0.999
"""R² from which a function is called a line."""
IS_FOUND = 0.99
"""R² beside a line from which a formula is called found."""
_TIE = 1e-5
"""Of R² beside a line: what is closer than that goes to the simpler form."""


@dataclass(frozen=True)
class Form:
    """One shape g(b u + d) of the library, u the arguments in standard deviations about their mean.

    Attributes:
        name: for people.
        text: of g, with ``{}`` for its argument.
        function: g.
        starts: of the numbers below, one search from each.
        bounds: lower and upper ones.
        inside: b and d of u from the numbers searched for and the range of u.
    """

    name: str
    text: str
    function: Callable[[np.ndarray], np.ndarray]
    starts: tuple[tuple[float, ...], ...]
    bounds: tuple[tuple[float, ...], tuple[float, ...]]
    inside: Callable[[np.ndarray, float, float], tuple[float, float]]


@dataclass(frozen=True)
class SymbolicFit:
    """The nearest form for one function.

    Attributes:
        place: see :class:`kan_md.evaluate.functions.LearnedFunction`, as the next two.
        type_name: likewise.
        number: likewise.
        unit: likewise.
        output: hidden feature that the function goes to; 0 where there is one output.
        form: name of the nearest form.
        found: whether it is near enough to say so: a line with R² from :data:`IS_LINE`, another
            form with R² beside a line from :data:`IS_FOUND`.
        formula: c + a g(b x + d) with x = ρ_k, in eV where the function's unit is that.
        parameters: c, a, b, d.
        r2: share of the variance over the arguments that the formula explains.
        r2_beside_line: share of what the best line leaves over; None for a line.
    """

    place: str
    type_name: str
    number: int
    unit: str
    output: int
    form: str
    found: bool
    formula: str
    parameters: tuple[float, float, float, float]
    r2: float
    r2_beside_line: float | None

    def values(self, x: np.ndarray) -> np.ndarray:
        """The formula at arguments of any shape."""
        c, a, b, d = self.parameters
        return c + a * _BY_NAME[self.form].function(b * x + d)


def symbolic_fits(functions: Sequence[LearnedFunction]) -> list[SymbolicFit]:
    """Nearest forms of all functions that are in use, in their order, output by output."""
    return [fit for function in functions if function.role != "unused" for fit in _fits(function)]


def _fits(function: LearnedFunction) -> Iterator[SymbolicFit]:
    x, every = function.quantiles, function.values
    if x[-1] <= x[0]:
        return
    largest = every.std(1).max()
    for output, y in enumerate(every):
        if y.std() > 1e-6 * largest:
            name, parameters, r2, beside = nearest_form(x, y)
            yield SymbolicFit(
                place=function.place,
                type_name=function.type_name,
                number=function.number,
                unit=function.unit,
                output=output,
                form=name,
                found=beside is None or beside >= IS_FOUND,
                formula=_formula(name, parameters),
                parameters=parameters,
                r2=r2,
                r2_beside_line=beside,
            )


def nearest_form(
    x: np.ndarray, y: np.ndarray
) -> tuple[str, tuple[float, float, float, float], float, float | None]:
    """Name, (c, a, b, d), R² and R² beside a line of the nearest form.

    Args:
        x: [num_points], not all equal, distributed as arguments are.
        y: [num_points], not all equal.
    """
    middle, width = float(x.mean()), float(x.std())
    u = (x - middle) / width
    total = float(np.square(y - y.mean()).sum())
    line = _LIBRARY[0]
    c, a, left = _outside(u, y)
    beyond = float(left @ left)
    r2 = 1.0 - beyond / total
    if r2 >= IS_LINE:
        return line.name, (c, a, 1.0 / width, -middle / width), r2, None
    best = None
    for form in _LIBRARY[1:]:
        b, d, c, a, square = _search(form, u, y)
        beside = 1.0 - square / beyond
        if best is None or beside > best[3] + _TIE:
            parameters = (c, a, b / width, d - b * middle / width)
            best = (form.name, parameters, 1.0 - square / total, beside)
    return best


def _search(form: Form, u: np.ndarray, y: np.ndarray) -> tuple[float, float, float, float, float]:
    """b, d, c, a and the sum of squares that is left, by variable projection from every start."""
    low, high = float(u.min()), float(u.max())

    def argument(numbers: np.ndarray) -> tuple[np.ndarray, float, float]:
        b, d = form.inside(numbers, low, high)
        return form.function(b * u + d), b, d

    best = None
    for start in form.starts:
        found = least_squares(
            lambda numbers: _outside(argument(numbers)[0], y)[2],
            start,
            bounds=form.bounds,
            x_scale="jac",
            ftol=1e-12,
            xtol=1e-10,
            gtol=None,
            max_nfev=60,
        )
        if best is None or found.cost < best.cost:
            best = found
    g, b, d = argument(best.x)
    c, a, left = _outside(g, y)
    return b, d, c, a, float(left @ left)


def _outside(g: np.ndarray, y: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Least squares c and a of c + a g, and y − c − a g."""
    away = g - g.mean()
    square = away @ away
    a = float(away @ (y - y.mean()) / square) if square > 0 else 0.0
    left = y - y.mean() - a * away
    return float(y.mean() - a * g.mean()), a, left


def _both(numbers: np.ndarray, low: float, high: float) -> tuple[float, float]:
    return float(numbers[0]), float(numbers[1])


def _shift(numbers: np.ndarray, low: float, high: float) -> tuple[float, float]:
    return 1.0, float(numbers[0])


def _rate(numbers: np.ndarray, low: float, high: float) -> tuple[float, float]:
    return float(numbers[0]), 0.0


def _above_pole(numbers: np.ndarray, low: float, high: float) -> tuple[float, float]:
    return 1.0, float(np.exp(numbers[0])) - low


def _below_pole(numbers: np.ndarray, low: float, high: float) -> tuple[float, float]:
    return -1.0, float(np.exp(numbers[0])) + high


def _of_pole(name: str, text: str, function: Callable) -> list[Form]:
    """Forms of positive arguments: the searched number is the logarithm of the smallest of them."""
    starts, bounds = ((-4.0,), (0.0,), (2.0,)), ((-10.0,), (4.0,))
    return [
        Form(name, text, function, starts, bounds, inside) for inside in (_above_pole, _below_pole)
    ]


_WAVES = tuple((b, d) for b in (0.7, 1.5, 3.0) for d in (0.0, 1.5))
_BELLS = tuple((b, d) for b in (0.4, 1.0, 2.5) for d in (-1.0, 0.0, 1.0))
_LIBRARY = [
    Form("line", "({})", lambda z: z, (), ((), ()), _both),
    Form("square", "({})²", np.square, ((0.0,), (-3.0,), (3.0,)), ((-20.0,), (20.0,)), _shift),
    Form("cube", "({})³", lambda z: z**3, ((0.0,), (-3.0,), (3.0,)), ((-20.0,), (20.0,)), _shift),
    *_of_pole("square root", "√({})", np.sqrt),
    *_of_pole("logarithm", "log({})", np.log),
    *_of_pole("reciprocal", "1/({})", np.reciprocal),
    Form("exponential", "exp({})", np.exp, ((1.0,),), ((0.05,), (8.0,)), _rate),
    Form("exponential", "exp({})", np.exp, ((-1.0,),), ((-8.0,), (-0.05,)), _rate),
    Form("tanh", "tanh({})", np.tanh, _BELLS, ((0.1, -15.0), (15.0, 15.0)), _both),
    Form(
        "Gaussian",
        "exp(-({})²)",
        lambda z: np.exp(-(z**2)),
        _BELLS,
        ((0.1, -15.0), (8.0, 15.0)),
        _both,
    ),
    Form("sine", "sin({})", np.sin, _WAVES, ((0.2, -7.0), (4.0, 7.0)), _both),
]
"""Simple ones first. Bounds keep a form from being a polynomial in disguise, and a sine from
following noise."""
_BY_NAME = {form.name: form for form in _LIBRARY}


def _formula(name: str, parameters: tuple[float, float, float, float]) -> str:
    c, a, b, d = parameters
    inside = f"{b:.4g} ρ {'-' if d < 0 else '+'} {abs(d):.4g}"
    if name == "line":
        constant, slope = c + a * d, a * b
        return f"{constant:.4g} {'-' if slope < 0 else '+'} {abs(slope):.4g} ρ"
    return f"{c:.4g} {'-' if a < 0 else '+'} {abs(a):.4g} {_BY_NAME[name].text.format(inside)}"
