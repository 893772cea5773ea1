"""The mirror that the sinks `files` and `s3` share: it copies an event's body and its run's files into a store.

sink        the sink over a store: in which order things are written, and the receipt
options     the options of both sinks
transfer    one file of a delivery: stored, skipped or retried
run_folder  where a run's files go, and what is stored already
artifacts   which files belong to a run, and whether a recording is complete (pure)
names       safe file names and key parts, content types by file ending (pure)
manifest    run.json's companions manifest.json and latest.json (pure)
download    one file: fetched, counted, hashed, compared
store       what a mirror needs of S3 or a folder
"""
