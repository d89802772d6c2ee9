"""The table of the judges, where no Label Studio is needed."""

from tasks.context import EpochContext
from tasks.generation.plan import make_plan
from tests.support.project import Project

from .conftest import Begin


def test_an_epoch_that_nobody_was_shown_has_no_judges(at_home: Project, begin: Begin):
    context = begin()
    make_plan(context)
    at_home.verb("people", context.run.location).refused("epoch 0 of", "has nothing in Label Studio yet")
    assert context.epoch.latest("push-plan") is None, "looking makes nothing"


def test_a_programme_is_a_judge_that_agrees_with_nobody(at_home: Project, generated: EpochContext):
    said = at_home.verb("people", generated.run.location).good().out
    assert "programmed:jpeg_compressibility" in said
    assert "alpha of epoch 0: not known: no image pair has two votes" in said
