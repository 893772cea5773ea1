"""The client of Skyvern's API. No ledger, config file or web app here.

A call does not raise for the server's behaviour: it returns an Answer, which `responses` interprets.
"""
