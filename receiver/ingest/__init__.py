"""From a POST to its 202: verify the signature, and commit to Redis or the spool before the response.

`web` routes the POST here; `dispatch` reads what was committed.
"""
