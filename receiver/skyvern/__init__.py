"""The client for Skyvern's API: the only package that speaks it. It knows no ledger, no config file and no web app.

A call never raises for what the server does: it ends as an Answer, whose meaning is in responses.py.
"""

from receiver.skyvern.client import BrokenOff, SkyvernAPI, SkyvernReader, Streamed
from receiver.skyvern.responses import (
    Answer,
    Answered,
    Created,
    ListedArtifact,
    ListedRun,
    Lost,
    Patience,
    Rejected,
    Unreachable,
    artifacts_run_id,
    expires_at,
    failure,
    length_of_list,
    listed_artifacts,
    listed_runs,
    submitted,
)

__all__ = [
    "Answer",
    "Answered",
    "BrokenOff",
    "Created",
    "ListedArtifact",
    "ListedRun",
    "Lost",
    "Patience",
    "Rejected",
    "SkyvernAPI",
    "SkyvernReader",
    "Streamed",
    "Unreachable",
    "artifacts_run_id",
    "expires_at",
    "failure",
    "length_of_list",
    "listed_artifacts",
    "listed_runs",
    "submitted",
]
