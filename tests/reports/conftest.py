"""A run that every test of reports may read."""

from collections.abc import Callable

import pytest

from isrdpo.core.runs import Run
from isrdpo.stages import data, evaluate, judge, look, respond, train


@pytest.fixture
def whole_run(make_run: Callable) -> Run:
    """A run of one iteration, with every stage done."""
    run = make_run("whole", "iterations=1", "judge.method=score")
    for stage in (data, respond, judge, look, train, evaluate):
        stage.run(run, 1)
    return run
