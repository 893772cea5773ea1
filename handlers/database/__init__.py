"""Rows: one for each run, in SQLite or PostgreSQL.

sink       the sink: batches in, receipts out, and which trouble means what
options    what an operator may say
columns    the columns, and the row that a delivery makes
values     text, numbers, times and JSON made safe for a database
upsert     the table, and the statement that never lets old facts replace newer ones
server     connections, locks, time limits, and what a driver's error means
"""

from handlers.database.options import DatabaseOptions
from handlers.database.sink import DatabaseSink

__all__ = ["DatabaseOptions", "DatabaseSink"]
