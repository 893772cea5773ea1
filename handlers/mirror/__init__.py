"""The mirror that the sinks `files` and `s3` share: it copies an event's body and its run's files into a store.

sink            what both sinks are: a mirror over a store of theirs
mirror          one delivery: in which order things are written, and what the receipt says
run_folder      what is stored of a run already, and where its files go
completeness    whether a recording is whole, by Skyvern's record of it (pure)
artifacts       which files belong to a run (pure)
names           safe file names and key parts (pure)
content_types   content types by file ending (pure)
manifest        run.json's companions manifest.json and latest.json (pure)
download        one file: fetched, counted, hashed, compared
fan_out         many files at once, with a deadline
store           what a mirror needs of S3 or a folder
options         the options that both sinks have
"""
