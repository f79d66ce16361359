"""The suite keeps what is finished and goes on after what fails."""

from __future__ import annotations

import pytest
from rich.console import Console

from kan_md.errors import KanMdError
from results.experiments.suite import _attempt


@pytest.mark.parametrize(
    ("error", "reason"),
    [(KanMdError("no such model"), "no such model"), (KeyError("rows"), "KeyError: 'rows'")],
)
def test_failing_case_is_reported_and_the_rest_goes_on(error, reason, monkeypatch):
    monkeypatch.delenv("KAN_MD_DEBUG", raising=False)

    def fail():
        raise error

    assert _attempt(fail, Console(quiet=True)) == {"error": reason}
