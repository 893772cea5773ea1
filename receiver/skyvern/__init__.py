"""The client for Skyvern's API: the only package that speaks it. It knows no ledger, no config file and no web app.

A call never raises for what the server does: it ends as an Answer, whose meaning is in responses.py.
"""
