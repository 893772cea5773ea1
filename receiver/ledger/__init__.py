"""The ledger: the SQL record of runs, events, deliveries and attempts. The only package that speaks SQL.

It stores and reads the decisions of other packages (dispatch, delivery, replay, …). It routes and sends nothing. All
times are seconds since the epoch.
"""

from sqlalchemy import Connection

from receiver.ledger.database.engine import Ledger
from receiver.ledger.database.errors import LedgerDataError, LedgerNotDurable, LedgerUnavailable, OutcomeUnknown

__all__ = ["Connection", "Ledger", "LedgerDataError", "LedgerNotDurable", "LedgerUnavailable", "OutcomeUnknown"]
