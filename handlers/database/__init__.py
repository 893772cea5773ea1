"""The sink `database`: one row for each run, in SQLite or PostgreSQL.

sink           the sink: batches, inserts and merges rows, isolates the delivery that fails a batch
options        the sink's options
table          the standard columns (pure)
columns        the row of a delivery (pure)
values         text, numbers, times and JSON converted for a database (pure)
merge          several events of a run into one row (pure)
results_table  the statements of one table
inspection     a table's existing and missing columns
server         connections, locks, time limits; maps driver errors to Refused and Unavailable
"""

from handlers.database.options import DatabaseOptions
from handlers.database.sink import DatabaseSink

__all__ = ["DatabaseOptions", "DatabaseSink"]
