"""Models of published shapes: what is stored, and the page of it."""

import json
from pathlib import Path

import numpy as np
import pytest

from results.experiments.foundation import measured
from results.experiments.foundation_page import file_over_weights, page
from results.experiments.foundation_shapes import OF_MATERIALS, shapes
from results.experiments.foundation_structure import REPEATS, structure

RESULTS = Path(__file__).parents[3] / "results"
SHAPES = {shape.name: shape for shape in shapes()}


def test_shapes_have_names_of_their_own_and_elements_of_their_runs():
    assert len(SHAPES) == len({shape.key for shape in shapes()}) == len(shapes())
    assert len(OF_MATERIALS) == len(set(OF_MATERIALS)) == 89
    for shape in shapes():
        assert set(shape.chosen) <= set(shape.elements)
        for count, repeat in REPEATS.items():
            atoms = structure(shape, repeat)
            assert len(atoms) == count
            assert set(atoms.symbols) == set(shape.chosen)
            distances = atoms.get_all_distances(mic=True)
            np.fill_diagonal(distances, np.inf)
            assert distances.min() > 1.2


def test_measured_process_says_what_it_took():
    code = "x = bytearray(300_000_000); x[::4096] = b'1' * len(x[::4096])"
    spent = measured("python", "-c", code, what="a test")
    assert 0.3 < spent.peak_gb < 0.5
    assert 0.0 < spent.cpu_s <= spent.wall_s + 0.1


def test_page_is_of_the_stored_rows():
    stored = json.loads((RESULTS / "foundation.json").read_text())
    assert (RESULTS / "foundation.md").read_text() == page(stored)
    assert stored["rows"].keys() <= SHAPES.keys()
    for name, row in stored["rows"].items():
        published = SHAPES[name].published
        if published is not None and SHAPES[name].backbone == "mace":
            assert row["made"]["parameters"] == published
        if "deploy" in row:
            assert file_over_weights(row) > 0.0


def test_row_that_is_not_finished_is_on_the_page():
    row = {"made": {"parameters": 5}, "errors": {"convert": "it was interrupted"}}
    text = page({"machine": "a machine", "rows": {"NequIP-OAM-L": row}})
    assert "| NequIP-OAM-L | 89 | 5 (9,600,000) | – |" in text
    assert "- NequIP-OAM-L, convert: it was interrupted" in text


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_says_how_many_types_it_has(name):
    shape = SHAPES[name]
    arguments = shape.arguments
    count = arguments.get("num_elements") or len(arguments["type_names"])
    assert count == len(shape.elements)
