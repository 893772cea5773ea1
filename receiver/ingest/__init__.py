"""From a POST to its 202: verify, and commit to Redis or to the spool before the answer."""
