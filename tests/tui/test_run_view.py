"""What the monitor knows of a run: fed with events, it forgets what would grow without end."""

from __future__ import annotations

import math
import tracemalloc

import pytest

from made_runs import TOTAL, run_events, sample_events, started, stepped
from slim.errors import DivergedError
from slim.events import EvalFinished, Note, SampleFinished, StepSkipped
from slim.tui.run_view import LOG_LINES, SAMPLES, VALIDATIONS, RunView


def test_a_whole_run() -> None:
    view = RunView("x.bin")
    view.add_all(run_events())
    assert view.last_step == view.total_steps == TOTAL
    assert [step for step, _ in view.validations] == [20, 40]
    assert [phase.kind for phase in view.phases] == ["warm-up", "constant", "decay"]
    assert next((phase.first, phase.last) for phase in view.phases) == (1, 10)
    assert [sample.step for sample in view.samples] == [0, 20, 40]
    assert view.samples[1].text == " a story of step 20"
    assert len(view.samples[1].tokens) == 5
    assert view.log[-1].level == "good"


def test_a_sample_grows_while_it_is_written() -> None:
    view = RunView("x.bin")
    begun = sample_events(3, "one two three")
    view.add_all(begun[:3])
    assert view.writing is not None and view.writing.text == " one two"
    view.add_all(begun[3:])
    assert view.writing is None and view.samples[-1].typical_p == 0.4


def test_a_sample_from_a_journal_has_its_tokens_back() -> None:
    view = RunView("x.bin")
    shades = ((4, 0.5), (0, 1e-5), (4, 0.0), (9, 1.0))
    view.add(SampleFinished(3, 0, "Once", " one two \x1b\U0001f600", 0.4, shades))
    view.add(SampleFinished(4, 0, "Once", " one two", 0.4))
    view.add(SampleFinished(5, 0, "Once", " one two", 0.4, ((4, 0.5),)))
    first, without, short = view.samples
    assert [token.text for token in first.tokens] == [" one", "", " two", " \x1b\U0001f600"]
    assert [token.p for token in first.tokens] == [0.5, 1e-5, 0.0, 1.0]
    assert all(math.isfinite(token.logprob) and math.isnan(token.entropy) for token in first.tokens)
    assert first.rest == ""
    assert without.tokens == [] and without.rest == " one two"
    assert short.rest == " two"


def test_what_goes_wrong_is_in_the_log() -> None:
    view = RunView("x.bin")
    view.add(StepSkipped(3, "not finite"))
    view.add(Note("careful", "warning"))
    view.fail(DivergedError("training diverged"))
    view.fail(RuntimeError("a bug"))
    assert [line.level for line in view.log] == ["warning", "warning", "error", "error"]
    assert view.problem == "RuntimeError: a bug"


def test_a_rollback_makes_its_steps_again() -> None:
    view = RunView("x.bin")
    view.add_all([started(), *(stepped(step) for step in range(1, 30))])
    view.add(EvalFinished(20, 3.0, 1.0, True, 1.0))
    view.add_all(stepped(step, 1.0) for step in range(11, 15))
    view.add(EvalFinished(15, 2.5, 1.0, True, 1.0))
    assert view.loss.last_step == 14 and view.loss.at(20) is None
    assert view.validations == [(15, 2.5)]


def test_everything_stays_bounded() -> None:
    view = RunView("x.bin")
    grown = []
    for part in range(4):
        tracemalloc.start()
        for step in range(part * 3000 + 1, part * 3000 + 3001):
            view.add(stepped(step, 2.0 + step % 7))
            if step % 2 == 0:
                view.add(EvalFinished(step, 2.0, 1.0, False, 1.0))
                view.add_all(sample_events(step, "a b c"))
        grown.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert len(view.samples) == SAMPLES and view.samples[0].step == 2
    assert len(view.log) == LOG_LINES and len(view.validations) <= VALIDATIONS
    assert grown[-1] < 200_000
    steps = [sample.step for sample in view.samples]
    assert steps == sorted(steps) and steps[-1] == 12_000


@pytest.mark.parametrize("reason", ["finished", "early_stop", "interrupted", "something new"])
def test_every_end_has_words(reason: str) -> None:
    from slim.events import TrainFinished

    view = RunView("x.bin")
    view.add(TrainFinished(reason, 3, None, None, None, 1.0))
    assert view.log[-1].text
