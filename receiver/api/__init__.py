"""The JSON API /api/v1: one set of query and action functions for HTTP, the command line and the console.

Each call is declared once, as an Endpoint (`endpoint`), and listed in `catalogue`. No SQL here: that is the ledger's.
"""
