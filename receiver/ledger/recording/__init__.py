"""Record a batch of events in one transaction: `load` what is known of its runs, and `write` what dispatch decides.

Statements lock rows in the same order in every process: runs, sorted; then submissions, sorted; then events; then
deliveries, sorted. Unsorted, four dispatchers caused 160 deadlocks in 600 transactions; sorted, none.
"""
