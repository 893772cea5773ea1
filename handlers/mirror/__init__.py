"""The mirror that the sinks `files` and `s3` share: it copies an event's body and its run's files into a store.

sink        the sink over a store: the order of writes, and the receipt
options     the options of both sinks
transfer    one file of a delivery: stored, skipped or retried
run_folder  where a run's files are stored, and which exist already
artifacts   the files of a run, and whether a recording is complete (pure)
names       safe file names and key parts, content types by file ending (pure)
manifest    run.json's companions manifest.json and latest.json (pure)
download    one file: fetched, counted, hashed, compared
store       the interface of S3 and folders
"""
