"""From a file to a checked Config, with every problem of it at once. The YAML itself is configfile's business."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from receiver.config import Config
from receiver.configfile import read


def load_file(path: Path, environ: Mapping[str, str]) -> Config:
    """See `receiver.config.load`."""
    document = read(path, environ)
    try:
        config = Config.model_validate(document.value)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            document.complain(tuple(detail["loc"]), detail["msg"])
        document.raise_problems()
        raise
    document.raise_problems()
    return config
