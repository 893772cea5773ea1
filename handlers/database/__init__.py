"""The sink `database`: one row for each run, in SQLite or PostgreSQL.

sink           the sink: batches, rows inserted or merged, and which delivery makes a batch fail
options        the sink's options
table          the standard columns (pure)
columns        the row of a delivery (pure)
values         text, numbers, times and JSON converted for a database (pure)
merge          several events of one run as one row (pure)
results_table  the statements of one table
inspection     which columns a table has, and which it lacks
server         connections, locks, time limits, and a driver's errors as Refused and Unavailable
"""

from handlers.database.options import DatabaseOptions
from handlers.database.sink import DatabaseSink

__all__ = ["DatabaseOptions", "DatabaseSink"]
