"""Lists of the ledger's rows, page by page: (connection, filter, after, limit) → (rows, next).

`after` and `next` are keys: the place in the list's order of the last row that was looked at. A page costs the same
wherever it is, and reads a bounded number of rows: it may hold fewer than `limit` though there are more, and then
`next` is there. Rows are plain dictionaries.
"""
