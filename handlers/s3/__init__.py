"""The sink `s3`: each event and its run's files as objects of a bucket, at Amazon or anywhere that speaks its protocol.

options   what an operator sets
sink      the sink itself
store     keys and bytes in a bucket: the only file here that calls boto3
upload    a body of any length with a fixed amount of memory
errors    what S3 says, in the contract's words
"""

from handlers.s3.options import S3Options
from handlers.s3.sink import S3Sink

__all__ = ["S3Options", "S3Sink"]
