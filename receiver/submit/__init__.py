"""The submit API: Skyvern's own calls, for upstream apps with Runhook's keys.

A POST that creates a run, step by step: api (route, key, body) → prepare (checks; the row and the request to Skyvern)
→ submitter (writes the row, sends the request, records the response) → replies. A row is written before anything is
sent, so no run is ever without a record. lost_answer searches for the run where Skyvern's response is missing.

A GET of a run: api → results (ledger or Skyvern), with run_watch and long_poll while it waits. All other
calls: retry_webhook, proxy.
"""
