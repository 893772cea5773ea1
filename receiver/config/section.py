"""Sections of the config file, each a model. One that is left out has its defaults, and takes no time to be built."""

from typing import Any

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema
from pydantic_core.core_schema import definitions_schema, no_info_plain_validator_function

from receiver.config.base import Model


class Section(Model):
    """Base of the models of sections, and of what only they hold. Pydantic builds them when a file mentions them."""

    model_config = ConfigDict(defer_build=True)


class _ByItsModel:
    """Has a section checked by its model as it is then: else its validator would be built with that of its owner.

    Errors have the same keys and words, and the JSON Schema is the same.
    """

    def __init__(self, model: type[Section]) -> None:
        self._model = model

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        ref = f"{__name__}.{self._model.__name__}:{id(self)}"  # with one, the JSON Schema has no title for the field
        return no_info_plain_validator_function(self._model.model_validate, ref=ref)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> Any:
        self._model.model_rebuild()
        # Wrapped, for only what is within another schema becomes a definition with a name.
        return handler(definitions_schema(self._model.__pydantic_core_schema__, []))


def section(model: type[Section], description: str) -> Any:
    """Return the field of a section."""
    field: Any = Field(default_factory=model.model_construct, description=description)
    field.metadata.append(_ByItsModel(model))
    return field
