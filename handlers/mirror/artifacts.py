"""Read from a run's body which files belong to it: recordings, screenshots, downloads. Pure.

Any body gives a list, with the same names at every attempt. This module neither fetches nor stores files.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from handlers.contract import Artifact
from handlers.mirror.names import UsedNames, safe_file_name
from handlers.support.timestamps import epoch
from handlers.support.url import MAX_URL

# Reserved names in the event's directory.
RESERVED = ("run.json", "manifest.json", "latest.json")

# Maximum artifacts of one run.
MAX_LISTED = 10_000

# Maximum characters read of a URL; longer ones are refused.
_MAX_READ = MAX_URL + 1

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_CONTENT_PATH = re.compile(r"/artifacts/([A-Za-z0-9_-]{1,200})/content/?$")
# Skyvern's name of a stored file: <time>_<artifact id>_<type>.<ending>. A server with local storage gives such a path
# instead of a URL.
_STORED_NAME = re.compile(r"_(a_[0-9]{1,40})_[a-z0-9_]+\.[a-z0-9.]{1,16}$")
_ENDING = re.compile(r"\.([a-z0-9]{1,8})$")
VIDEO = frozenset({"webm", "mp4", "mov", "mkv"})
_IMAGE = frozenset({"png", "jpg", "jpeg", "webp", "gif"})
_SIGNING = re.compile(
    r"(?i)^(x-amz-.*|x-goog-.*|awsaccesskeyid|signature|expires|policy|key-pair-id"
    r"|expiry|kid|sig|se|sp|sv|sr|st|spr|skoid|sktid|skt|ske|sks|skv)$"
)


def artifacts_of(run: Mapping[str, Any]) -> list[Artifact]:
    """Return the run's files: downloads first, then recordings, then screenshots, in the body's order.

    Names are safe and unique. A file that several fields name is listed once. `url` is the sender's, unchecked; "" for
    null.
    """
    artifacts: list[Artifact] = []
    known: set[tuple[str, str, str]] = set()
    taken = UsedNames(RESERVED)
    for artifact in _in_body(run):
        if artifact.url:
            identity = (artifact.kind, artifact.name if artifact.kind == "download" else "", url_identity(artifact.url))
            if identity in known:
                continue
            known.add(identity)
        artifacts.append(replace(artifact, name=taken.reserve(safe_file_name(artifact.name))))
        if len(artifacts) == MAX_LISTED:
            break
    return artifacts


def with_listed(in_body: Sequence[Artifact], listed: Sequence[Artifact], types: Sequence[str]) -> list[Artifact]:
    """Return `in_body` plus the artifacts of `listed` (from the API) whose type matches a glob of `types`, without
    duplicates.

    Listed sizes without a checksum are dropped: Skyvern records a growing log's first size, and a HAR's uncompressed
    size.
    """
    artifacts = list(in_body)
    taken = UsedNames((*RESERVED, *(artifact.name for artifact in in_body)))
    known = {_identity(artifact) for artifact in in_body}
    for artifact in listed:
        if _identity(artifact) in known or not any(fnmatchcase(artifact.kind, pattern) for pattern in types):
            continue
        known.add(_identity(artifact))
        name = safe_file_name(artifact.name or artifact.artifact_id or artifact.kind)
        size = artifact.size if artifact.sha256 is not None else None
        artifacts.append(replace(artifact, name=taken.reserve(name), size=size))
    return artifacts[:MAX_LISTED]


def with_fresh_url(artifact: Artifact, listed: Sequence[Artifact]) -> Artifact | None:
    """Return `artifact` with the newer URL that the same file has in `listed`; its name, checksum and size stay.

    None when no entry certainly matches.
    """
    other = same_file(artifact, [each for each in listed if each.url])
    if other is None:
        return None
    return replace(artifact, url=other.url, artifact_id=artifact.artifact_id or other.artifact_id)


def same_file(artifact: Artifact, listed: Sequence[Artifact]) -> Artifact | None:
    """Return the entry of `listed` for the same file; None when none certainly matches.

    A run's only recording always matches.
    """
    tests = (
        lambda other: artifact.artifact_id is not None and other.artifact_id == artifact.artifact_id,
        lambda other: artifact.sha256 is not None and other.sha256 == artifact.sha256,
        lambda other: bool(artifact.url) and url_identity(other.url) == url_identity(artifact.url),
    )
    for test in tests:
        for other in listed:
            if test(other):
                return other
    if artifact.kind == "recording" and len(only := [other for other in listed if other.kind == "recording"]) == 1:
        return only[0] if None in (artifact.artifact_id, only[0].artifact_id) else None
    return None


def url_identity(url: str) -> str:
    """Return the stable part of a signed URL: host, path, and the query without the signature.

    Returns `url` itself when it can't be parsed.
    """
    try:
        parts = urlsplit(url)
        kept = sorted((name, value) for name, value in parse_qsl(parts.query) if not _SIGNING.match(name))
        return f"{parts.netloc}{parts.path}?{kept}"
    except ValueError:
        return url


def is_content_path(url: str) -> bool:
    """Whether `url` has the path of the API's artifact contents, the only one that gets the API key."""
    return bool(_CONTENT_PATH.search(_path(url)))


def _in_body(run: Mapping[str, Any]) -> Iterator[Artifact]:
    yield from _downloads(run)
    for number, url in enumerate(_urls(run, "recording_urls", "recording_url")):
        yield _of_url("recording", url, "recording", "" if not number else f"-{number + 1}", VIDEO, "webm")
    for number, url in enumerate(_urls(run, "screenshot_urls", "action_screenshot_urls", "screenshot_url")):
        yield _of_url("screenshot", url, "screenshot", f"-{number + 1}", _IMAGE, "png")
    for url in _urls(run, "browser_console_log_url"):
        yield _of_url("browser_console_log", url, "browser-console", "", frozenset({"txt", "json"}), "log")


def _downloads(run: Mapping[str, Any]) -> Iterator[Artifact]:
    known = set()
    for entry in _list(run.get("downloaded_files")):
        if not isinstance(entry, Mapping):
            continue
        url = _text(entry.get("url"))[:_MAX_READ]
        known.add(url_identity(url))
        sha256, size = _text(entry.get("checksum")), entry.get("file_size")
        yield Artifact(
            kind="download",
            name=_text(entry.get("filename")) or _basename(url) or "download",
            url=url,
            sha256=sha256.lower() if _SHA256.fullmatch(sha256) else None,
            size=size if isinstance(size, int) and not isinstance(size, bool) and size >= 0 else None,
            artifact_id=_text(entry.get("artifact_id"))[:200] or _id_of(url),
        )
    for url in _urls(run, "downloaded_file_urls"):
        if url_identity(url) not in known:
            yield Artifact("download", _basename(url) or "download", url, artifact_id=_id_of(url))


def _of_url(kind: str, url: str, stem: str, number: str, endings: Iterable[str], default: str) -> Artifact:
    match = _ENDING.search(_basename(url).lower())
    ending = match[1] if match and match[1] in endings else default
    return Artifact(kind, f"{stem}{number}.{ending}", url, artifact_id=_id_of(url))


def _urls(run: Mapping[str, Any], *fields: str) -> Iterator[str]:
    """Yield the URLs in these fields, each file once."""
    known = set()
    for name in fields:
        value = run.get(name)
        for item in _list(value) if not isinstance(value, str) else [value]:
            url = _text(item)[:_MAX_READ]
            if url and (identity := url_identity(url)) not in known:
                known.add(identity)
                yield url


def _identity(artifact: Artifact) -> str:
    return artifact.artifact_id or url_identity(artifact.url)


def _id_of(url: str) -> str | None:
    path = _path(url)
    match = _CONTENT_PATH.search(path) or _STORED_NAME.search(path)
    return match[1] if match else None


def _basename(url: str) -> str:
    """Return the last path segment; "" for the API's `/content`."""
    path = _path(url)
    if _CONTENT_PATH.search(path):
        return ""
    return unquote(path.rstrip("/").rpartition("/")[2], errors="replace")


def _path(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError:
        return ""


def _list(value: Any) -> Sequence[Any]:
    return value[:MAX_LISTED] if isinstance(value, list) else ()


def _text(value: Any) -> str:
    """Return a string that can be encoded as UTF-8; "" for any other value."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else ""


RECORDING = "recording"

# Whether a recording is complete, by Skyvern's record of it.
#
# A recording grows until its run ends, and is written out after the run has its final status. Read in Skyvern 1.0.56
# (forge/agent.py, forge/sdk/artifact/manager.py, webeye/video_utils.py):
#
#     first step            the record is created, with the current size; the same bytes are stored; no checksum
# each later step       a longer part is stored; the record is unchanged
#     run is final          nothing changes for the moment
#     it is written out     the record gets its last size, time and ending (.webm may become .mp4); then the file is
#                           stored under it: until then, the old part or 404
#
# So a partial file differs in size from its record, or its record predates the run's end and never changed. Only
# recordings of browser sessions have a checksum. Recorded sizes of other files are unreliable: logs grow, and HARs are
# compressed.


def record_of(artifact: Artifact, listed: Sequence[Artifact]) -> Artifact | None:
    """Return the entry of `listed` (from the API) that is Skyvern's record of `artifact`; None if none certainly
    matches."""
    return same_file(artifact, [other for other in listed if other.kind == artifact.kind])


def completed_by(artifact: Artifact, record: Artifact | None) -> Artifact:
    """Return `artifact` with the size and SHA-256 of the complete file, if known.

    Its URL is the record's: the event's may lead to the partial file.
    """
    if record is None:
        return artifact
    return replace(
        artifact,
        url=record.url or artifact.url,
        artifact_id=artifact.artifact_id or record.artifact_id,
        size=artifact.size if record.size is None else record.size,
        sha256=artifact.sha256 or record.sha256,
    )


def with_ending_of(artifact: Artifact, record: Artifact | None, taken: Collection[str]) -> Artifact:
    """Return `artifact` with its record's file extension, which API URLs lack. `taken`: names of other files."""
    ending = record.name.rpartition(".")[2].lower() if record is not None else ""
    name = f"{artifact.name.rpartition('.')[0]}.{ending}"
    return replace(artifact, name=name) if ending in VIDEO and name not in taken else artifact


def why_incomplete(record: Artifact | None, run: Mapping[str, Any]) -> str:
    """Return why a recording of any size is incomplete; "" if it may be complete."""
    if record is None or record.sha256 is not None or record.size is None or record.unchanged_since is None:
        return ""
    ended = epoch(run.get("finished_at"))
    if ended is None or record.unchanged_since >= ended:
        return ""
    return "Skyvern has not written the recording out since the run's end"
