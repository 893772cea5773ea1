"""Free text over runs: an index of words in plain tables, the same on both databases.

Each run has a number, the highest for the run that changed last. 16,384 numbers are a chunk, and for
each chunk and word there is one row with the runs that have the word. A search goes through the chunks from the newest
back until it has found enough; of a word that hardly any run has, summaries tell in which chunks it may be. Why: see
docs/decisions/0011-free-text.md.

`postings` the rows · `summaries` of full chunks · `indexing` what the clock does · `pacing` when · `reading` which
runs, and what they say · `search` what people ask · `coverage` how far it has come.
"""
