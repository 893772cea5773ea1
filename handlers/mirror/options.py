"""The options of all mirroring sinks, checked at load. Knows no store."""

import re
from typing import Literal

from pydantic import ByteSize, Field, field_validator

from handlers.contract import SinkOptions
from handlers.mirror.names import key_part
from handlers.support import templating
from handlers.support.duration import Seconds

# Longest rendered prefix, in bytes. S3 keys have at most 1,024, including the event's directory and a file name.
MAX_PREFIX = 600
# Largest cap on one file, in bytes: the limit of a multipart upload.
MAX_ARTIFACT = 80 * 1000**3


class MirrorOptions(SinkOptions):
    """Which data of a run to keep, and under which names."""

    timeout: Seconds = Field(600.0, gt=0, le=3600, description="Time that one send may take: seconds, or such as 10m.")
    prefix: str = Field(
        "{{ run.run_type }}/{{ run.run_id }}/",
        description="Template of the folder for a run; each value in it becomes one safe part of a name.",
    )
    artifacts: tuple[str, ...] = Field(
        (),
        description="Artifact types (globs such as har or screenshot_*) to keep besides the event's files. Needs the"
        " source's api_key.",
    )
    max_artifact_bytes: ByteSize = Field(
        ByteSize(4 * 1024**3), gt=0, le=MAX_ARTIFACT, description="Maximum size of a file, such as 2GiB."
    )
    max_event_bytes: ByteSize = Field(
        ByteSize(16 * 1024**3), gt=0, description="Maximum size of all files of an event, such as 10GiB."
    )
    max_artifacts: int = Field(200, ge=0, le=10_000, description="Maximum files of one event.")
    on_missing: Literal["note", "fail"] = Field(
        "note", description="For a file that is gone or forbidden: note it in the manifest, or fail the delivery."
    )
    parallel: int = Field(8, ge=1, le=64, description="Files of a run fetched concurrently.")
    public_url: str = Field("", description="Base URL for links to the stored files, such as https://files.example/.")

    @field_validator("prefix")
    @classmethod
    def _prefix(cls, value: str) -> str:
        compile_prefix(value)
        return value

    @field_validator("public_url")
    @classmethod
    def _public_url(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^/\s?#]+(/[^\s?#]*)?", value):
            raise ValueError("is not a valid address: use one such as https://files.example/runs/")
        return value.rstrip("/") + "/" if value else ""


def compile_prefix(source: str) -> templating.Template:
    """Compile a prefix template. Raises ValueError for one that could never be safe."""
    if source.startswith("/"):
        raise ValueError("a prefix must not begin with /")
    if any(ord(char) < 32 or char in "\\\x7f" for char in source):
        raise ValueError("a prefix must not contain backslashes or control characters")
    if ".." in re.split(r"/|\{\{.*?\}\}|\{%.*?%\}", source) or "." in re.split(r"/", source):
        raise ValueError("a prefix must not contain . or .. as a part")
    return templating.compile(source, name="prefix", finalize=key_part, max_length=MAX_PREFIX)
