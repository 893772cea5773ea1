"""How every process logs: one line an occasion, to standard error, "time level name message key=value …"."""

from __future__ import annotations

import logging
import sys
import time


def set_up(level: str = "INFO") -> None:
    """Log to standard error from now on. `level`: DEBUG, INFO, WARNING or ERROR."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # What these say below a warning is of no use to an operator, and some of it holds URLs with secrets.
    for name in ("httpx2", "httpcore2", "httpx", "botocore", "boto3", "s3transfer", "urllib3", "alembic", "rq.worker"):
        logging.getLogger(name).setLevel(logging.WARNING)
