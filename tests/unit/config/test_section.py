"""Sections that may be left out: defaults without a validator, and else the same as any other model."""

from typing import Any

import pytest
from pydantic import Field, ValidationError

from receiver.config.base import Model
from receiver.config.section import Section, section


def owner_and_section() -> tuple[type[Model], type[Section]]:
    class TuningConfig(Section):
        """How fast."""

        speed: int = Field(3, ge=1, description="Rounds a second.")

    class Owner(Model):
        tuning: TuningConfig = section(TuningConfig, "What is tuned.")

    return Owner, TuningConfig


def test_one_that_is_left_out_has_its_defaults_and_is_not_built() -> None:
    owner, tuning = owner_and_section()
    found: Any = owner.model_validate({})
    assert not tuning.__pydantic_complete__
    assert "'speed'" not in str(owner.__pydantic_core_schema__)
    assert found.tuning == tuning(speed=3)  # type: ignore[call-arg]


def test_one_that_is_mentioned_is_checked_by_its_model() -> None:
    owner, _ = owner_and_section()
    found: Any = owner.model_validate({"tuning": {"speed": "5"}})
    assert found.tuning.speed == 5


@pytest.mark.parametrize(
    ("value", "kind", "place"),
    [
        ({"speed": 0}, "greater_than_equal", ("tuning", "speed")),
        ({"sped": 1}, "extra_forbidden", ("tuning", "sped")),
        ("fast", "model_type", ("tuning",)),
    ],
)
def test_a_mistake_is_told_where_it_is(value: object, kind: str, place: tuple[str, ...]) -> None:
    owner, _ = owner_and_section()
    with pytest.raises(ValidationError) as caught:
        owner.model_validate({"tuning": value})
    assert [(each["type"], each["loc"]) for each in caught.value.errors()] == [(kind, place)]


def test_the_json_schema_is_that_of_a_model_that_is_always_built() -> None:
    owner, kind = owner_and_section()

    class Owner(Model):
        tuning: kind = Field(default_factory=kind, description="What is tuned.")  # type: ignore[valid-type]

    assert owner.model_json_schema() == Owner.model_json_schema()
