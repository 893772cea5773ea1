"""Options of an `s3` sink, checked at load. Opens nothing."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from handlers.mirror.options import MirrorOptions
from handlers.support import templating

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]|arn:aws[a-z-]*:s3:[A-Za-z0-9:/_-]+")
_UNFIT_FOR_TAG = re.compile(r"[^\w\s+\-=.:/@]")


def tag_value(value: Any) -> str:
    """Return a template's value with characters that are invalid in S3 tags replaced by _."""
    return _UNFIT_FOR_TAG.sub("_", templating.plain(value).encode(errors="replace").decode())


class S3Options(MirrorOptions):
    """Options of an `s3` sink. Empty strings count as absent, so that `${S3_ENDPOINT_URL:-}` works."""

    bucket: str = Field(description="Name of the bucket, which must exist.")
    region: str | None = Field(None, description="Region of the bucket; default: boto3's (AWS_REGION, its files).")
    endpoint_url: str | None = Field(
        None, description="URL of a server with an S3 API, such as http://minio.internal:9000; default: Amazon."
    )
    path_style: bool | None = Field(
        None, description="Put the bucket in the path, not the host; default: yes if endpoint_url is set."
    )
    access_key_id: SecretStr | None = Field(
        None, description="Access key; default: boto3's own chain (environment, files, instance role)."
    )
    secret_access_key: SecretStr | None = Field(None, description="Secret of access_key_id.")
    session_token: SecretStr | None = Field(None, description="Session token, for temporary credentials.")
    profile: str | None = Field(None, description="Profile of the AWS configuration files.")
    storage_class: str | None = Field(None, description="Storage class of the objects, such as STANDARD_IA.")
    sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = Field(None, description="Encryption by the server.")
    sse_kms_key_id: str | None = Field(None, description="Key for aws:kms; default: the account's.")
    tags: dict[str, str] = Field(
        default_factory=dict, max_length=10, description="Tags of each object; the values are templates."
    )
    checksums: bool = Field(
        True,
        description="Have the server verify and store a SHA-256 of each object; turn off for servers without"
        " checksums.",
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_is_absent(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value != "" or name in ("bucket", "prefix")}

    @field_validator("bucket")
    @classmethod
    def _bucket(cls, value: str) -> str:
        if not _BUCKET.fullmatch(value) or ".." in value:
            raise ValueError("a bucket's name has 3 to 63 lower-case letters, digits, dots and dashes")
        return value

    @field_validator("endpoint_url")
    @classmethod
    def _endpoint_url(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^/\s?#@]+(/[^\s?#]*)?", value):
            raise ValueError("is not a valid address: use one such as https://s3.example:9000")
        return value.rstrip("/") if value else value

    @field_validator("tags")
    @classmethod
    def _tags(cls, value: dict[str, str]) -> dict[str, str]:
        for name, source in value.items():
            if not 0 < len(name) <= 128 or _UNFIT_FOR_TAG.search(name):
                raise ValueError(f"{name!r} is not a valid tag name")
            templating.compile(source, name=f"tags.{name}", finalize=tag_value)
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key require each other")
        if self.sse_kms_key_id and self.sse not in ("aws:kms", "aws:kms:dsse"):
            raise ValueError("sse_kms_key_id needs sse: aws:kms")
        if self.profile and self.access_key_id:
            raise ValueError("give a profile or an access key, not both")
        return self
