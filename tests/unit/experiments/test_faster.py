"""Times faster than upstream: what is compared with what, and how it is shown."""

from dataclasses import replace

import pytest

from kan_md.benchmark.numbers import plus_minus, times_faster
from kan_md.benchmark.structures import silver
from results.experiments import cases
from results.experiments.cases import FAST, MACE_TORCH, PLAIN, UPSTREAM, UPSTREAM_KAN, Case
from results.experiments.faster import gains, save_gains, summary


@pytest.fixture
def speed_report(report, benchmark_row):
    """Upstream takes 30 ms, a file without passes 90, the deployed one 3."""
    rows = [
        benchmark_row(UPSTREAM, 30.0, 1.0, cpu_ms_per_step=30.1, peak_rss_mib=200.0),
        benchmark_row(UPSTREAM_KAN, 45.0, 1.5),
        benchmark_row(PLAIN, 90.0, 3.0),
        benchmark_row(FAST, 3.0, 0.1, cpu_ms_per_step=3.02, peak_rss_mib=100.0),
    ]
    return replace(report, rows=rows, control=UPSTREAM)


def case(name="one", **changes):
    return Case(
        **{"name": name, "title": f"case {name}", "models": (), "structure": silver}
        | {"control": UPSTREAM}
        | changes
    )


def test_times_faster_is_the_inverse_of_the_ratio_with_its_error(benchmark_row):
    value, error = times_faster(benchmark_row("a", 3.0, 0.1))
    assert value == pytest.approx(10.0)
    # d(1/r) = dr/r², by finite differences
    assert error == pytest.approx((1 / 0.0999 - 1 / 0.1001) / 0.0002 * 0.01, rel=1e-4)
    assert times_faster(benchmark_row("a", 3.0, None)) is None


def test_summary_compares_with_upstream_first(speed_report):
    text = "\n".join(summary(gains([case()], {"one": speed_report})))
    assert (
        f"| case one | {UPSTREAM} | 30.0 ± 3.0 | 90.0 ± 9.0 | 3.00 ± 0.30 | 10.0 ± 1.0 | "
        "30.0 ± 4.2 | 30.1 | 3.02 | 0.50 |"
    ) in text


def test_the_fastest_form_of_mace_torch_is_the_control(speed_report, benchmark_row):
    forms = dict(zip(MACE_TORCH.values(), (50.0, 24.0, 30.0), strict=True))
    rows = [benchmark_row(name, time, 0.1 * time / 3) for name, time in forms.items()]
    rows.append(benchmark_row(FAST, 3.0, 0.1))
    compared = replace(speed_report, rows=rows, control=MACE_TORCH["compiled"])
    (gain,) = gains([case()], {"one": compared})
    assert gain.control.label == min(forms, key=forms.get)
    assert gain.over_control[0] == pytest.approx(8.0)


def test_cases_whose_control_is_the_deployed_file_gain_nothing(speed_report):
    assert gains([case()], {"one": replace(speed_report, control=FAST)}) == []


def test_figure_has_bars_from_zero_for_cases_with_upstream(speed_report, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "results.experiments.faster.save_figure", lambda figure, path: drawn.append(figure)
    )
    plain = replace(speed_report, control=PLAIN)
    without = replace(speed_report, rows=[r for r in speed_report.rows if r.label != PLAIN])
    found = gains(
        [case(name) for name in ("one", "two", "three")],
        {"one": speed_report, "two": plain, "three": without},
    )
    save_gains(found, tmp_path / "speed.png")
    upstream, no_passes = drawn[0].axes
    assert [bar.get_width() for bar in upstream.patches] == pytest.approx([10.0, 10.0])
    assert [bar.get_width() for bar in no_passes.patches] == pytest.approx([30.0, 0.0])
    assert upstream.get_xlim()[0] == no_passes.get_xlim()[0] == 0.0
    assert "not run" in [text.get_text() for text in no_passes.texts]


def test_control_is_what_upstream_runs():
    """Its compiled file on one thread; message passing of upstream knows one rank only."""
    for one in cases.speed().cases:
        tools = {model.label: model.tool for model in one.models}
        if one.control == FAST:
            continue
        if one.name.startswith("mace") and one.ranks == 1:
            assert one.control == MACE_TORCH["compiled"]
            assert set(one.peers) == set(MACE_TORCH)
        elif one.threads == 1 and (one.name.startswith("allegro") or one.ranks == 1):
            assert tools[one.control] == "nequip-compile"
            assert tools[FAST] == "kan-md"
        else:
            assert one.control == PLAIN


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [(90.94, 2.97, "90.9 ± 3.0"), (2.66, 0.02, "2.66 ± 0.02"), (1992.3, 207.2, "1992 ± 207")],
)
def test_numbers_and_errors_end_at_the_same_place(value, error, text):
    assert plus_minus(value, error) == text
