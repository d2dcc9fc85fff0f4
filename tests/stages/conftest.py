"""Fixtures that the tests of scoring share."""

from collections.abc import Callable

import pytest

from isrdpo.core.runs import Run
from isrdpo.stages import data, evaluate
from tests.scored_runs import KEY


@pytest.fixture
def openai_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def answered(make_run: Callable) -> Callable:
    """A run whose base has answered; six questions of Toybox, which have captions."""

    def make_answered_run(name: str, *overrides: str) -> Run:
        run = make_run(name, "max_bad_share=0.05", *overrides)
        data.run(run, 1)
        evaluate.run(run, 0)
        return run

    return make_answered_run
