"""The sink `database`: one row for each run, in SQLite or PostgreSQL.

sink       the sink: batches, transactions, and which delivery a failed one is due to
options    the sink's options
table      the standard columns (pure)
columns    the row that a delivery makes (pure)
values     text, numbers, times and JSON converted for a database (pure)
merge      what several events say of one run, as one row (pure)
statements the SQL of one table
inspection which columns a table has, and those it is to get
writing    a batch of rows into one table
server     connections, locks, time limits, and a driver's errors as ours
"""

from handlers.database.options import DatabaseOptions
from handlers.database.sink import DatabaseSink

__all__ = ["DatabaseOptions", "DatabaseSink"]
