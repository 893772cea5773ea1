"""Submitting runs on behalf of upstream apps, in Skyvern's own API, and giving them their results.

The submission is written down first and then sent on with our callback URL, so that no run is ever without a record.
"""
