"""The mirror that the sinks `files` and `s3` share: what belongs to a run, under which names, whole or not at all.

names, artifacts, manifest, types   pure: a body in, names and documents out
download                            one file: fetched, counted, hashed, compared
sending                             one delivery: in which order, what is there already, what is reported
options, threads                    what an operator sets; threads that nobody waits for too long
"""

from handlers.mirror.artifacts import artifacts_of
from handlers.mirror.mirror import Mirror
from handlers.mirror.names import safe_name
from handlers.mirror.options import MirrorOptions
from handlers.mirror.store import ObjectTarget, Store, Stored

__all__ = ["Mirror", "MirrorOptions", "ObjectTarget", "Store", "Stored", "artifacts_of", "safe_name"]
