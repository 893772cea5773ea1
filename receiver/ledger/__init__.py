"""The ledger: the SQL record of runs, events, deliveries and attempts. The only package that speaks SQL.

It stores what others decided (dispatch, deliver, replay, …) and answers what they ask; it routes nothing and
sends nothing. Times are seconds since the epoch, everywhere.
"""

from sqlalchemy import Connection

from receiver.ledger.engine import Ledger
from receiver.ledger.errors import LedgerDataError, LedgerNotDurable, LedgerUnavailable

__all__ = ["Connection", "Ledger", "LedgerDataError", "LedgerNotDurable", "LedgerUnavailable"]
