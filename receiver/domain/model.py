"""The base of all models of the config file.

Modules of models have no `from __future__ import annotations`: pydantic would compile each annotation from its text.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """Base of the models: an unknown key is an error, and no error repeats a value, which may be secret."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
