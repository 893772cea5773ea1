"""The sink `files`: each event and its run's files in a local folder, fsynced before the delivery is accepted.

sink      the options, and the sink: a mirror whose store is a folder
store     bytes by key below a folder
disk      opens folders and writes files without following symbolic links
"""

from handlers.files.sink import FilesOptions, FilesSink

__all__ = ["FilesOptions", "FilesSink"]
