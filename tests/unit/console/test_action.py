"""What stands between a button and its action: the count of what it would take, and a question."""

from typing import Any, cast

import pytest

from receiver.api.endpoint import Endpoint
from receiver.api.models import Parameters, Result, parse_moment
from receiver.api.operations import Chosen, TakenResult
from receiver.api.service import Actor, Service
from receiver.console.action import ConsoleAction, Done, Question, perform
from receiver.domain.api_key import OPERATE, VIEW
from receiver.errors import Forbidden, Invalid, NotAsExpected

SERVICE = cast("Service", None)  # the calls here need none
OPERATOR = Actor("user", "ana", frozenset({VIEW, OPERATE}))
VIEWER = Actor("user", "bob", frozenset({VIEW}))


class Many:
    """A call of many that counts up to where it is asked, or up to now: what matches, and what was taken."""

    now = 1000.0

    def __init__(self, count: int) -> None:
        self.count = count
        self.taken: list[Chosen] = []
        endpoint = Endpoint("take", "POST", "/take", OPERATE, Chosen, TakenResult, self)
        self.action = ConsoleAction(endpoint, "Take", question="Take these?")
        self.__name__, self.__doc__ = "take", "Take."

    def __call__(self, _service: Service, _actor: Actor, wanted: Chosen) -> TakenResult:
        if wanted.dry_run:
            until = wanted.until or self.now
            return TakenResult(dry_run=True, count=self.count, examples=[], until=until, operation=None)
        if wanted.expect is not None and wanted.expect != self.count:
            raise NotAsExpected(wanted.expect, self.count)
        self.taken.append(wanted)
        return TakenResult(dry_run=False, count=self.count, examples=[], until=1000.0, operation=None)


def ask(many: Many, form: list[tuple[str, str]], *, sure: bool = False) -> Question | Done:
    return perform(SERVICE, OPERATOR, many.action, form, sure=sure)


def test_a_filter_is_counted_first_and_taken_as_counted() -> None:
    # Given seven that match
    many = Many(7)
    # When the button is pressed
    question = ask(many, [("source", "skyvern"), ("text", "")])
    # Then nothing is taken, and the form that says yes names these seven
    assert isinstance(question, Question)
    assert not many.taken
    fields = dict(question.fields)
    assert fields["source"] == "skyvern"
    assert fields["expect"] == "7"
    # And with that form they are
    assert isinstance(ask(many, list(question.fields), sure=True), Done)
    assert (many.taken[0].source, many.taken[0].expect, many.taken[0].until) == ("skyvern", 7, 1000.0)


def test_what_changed_meanwhile_is_asked_about_again() -> None:
    many = Many(7)
    question = ask(many, [])
    assert isinstance(question, Question)
    many.count, many.now = 9, 2000.0
    again = ask(many, list(question.fields), sure=True)
    assert isinstance(again, Question)
    assert not many.taken
    assert dict(again.fields)["expect"] == "9"
    assert [parse_moment(value) for name, value in again.fields if name == "until"] == [2000.0]
    assert isinstance(ask(many, list(again.fields), sure=True), Done)


@pytest.mark.parametrize("form", [[("expect", "7")], [("expect", "7"), ("until", "1000")]])
def test_a_count_that_nobody_was_shown_takes_nothing(form: list[tuple[str, str]]) -> None:
    many = Many(7)
    assert isinstance(ask(many, form), Question)
    assert not many.taken


def test_one_id_is_asked_about_and_then_taken() -> None:
    many = Many(1)
    form = [("ids", "dlv_000000000001")]
    question = ask(many, form)
    assert isinstance(question, Question)
    assert (question.text, question.fields, question.preview and question.preview.count) == ("Take these?", form, 1)
    assert isinstance(ask(many, form, sure=True), Done)
    assert many.taken[0].ids == ("dlv_000000000001",)


def test_several_ids_are_counted_and_what_is_left_is_said() -> None:
    # Given three that are selected, of which two can be taken
    many = Many(2)
    question = ask(many, [("ids", f"dlv_00000000000{number}") for number in range(3)])
    assert isinstance(question, Question)
    assert question.text == "Take these? 1 of those selected is left as is."
    assert isinstance(ask(many, list(question.fields), sure=True), Done)
    assert (len(many.taken[0].ids), many.taken[0].expect) == (3, 2)


def test_where_none_can_be_taken_none_is_said_to_be_left() -> None:
    question = ask(Many(0), [("ids", "dlv_000000000000"), ("ids", "dlv_000000000001")])
    assert isinstance(question, Question)
    assert question.text == "Take these?"


def test_who_may_not_is_not_asked() -> None:
    many = Many(1)
    for sure in (False, True):
        for form in ([("ids", "dlv_000000000001")], []):
            with pytest.raises(Forbidden):
                perform(SERVICE, VIEWER, many.action, form, sure=sure)
    with pytest.raises(Invalid, match="did you mean source"):
        ask(many, [("sorce", "x")])
    assert not many.taken


class Nothing(Parameters):
    """No parameters."""


class Said(Result):
    """What was done."""

    done: bool


@pytest.mark.parametrize(("asks", "sure", "done"), [("", False, True), ("Sure?", False, False), ("Sure?", True, True)])
def test_what_has_no_question_is_done_at_once(asks: str, sure: bool, done: bool) -> None:
    def run(_service: Service, _actor: Actor, _wanted: Nothing) -> Said:
        """Do it."""
        return Said(done=True)

    endpoint: Endpoint[Any, Any] = Endpoint("run", "POST", "/run", OPERATE, Nothing, Said, run)
    outcome = perform(SERVICE, OPERATOR, ConsoleAction(endpoint, "Run", question=asks), [], sure=sure)
    assert isinstance(outcome, Done) is done
