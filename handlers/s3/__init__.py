"""The sink `s3`: each event and its run's files as objects of a bucket, at Amazon or any server with its API.

options   the sink's options
sink      the sink: a mirror whose store is a bucket
store     bytes by key in a bucket, through boto3
"""

from handlers.s3.options import S3Options
from handlers.s3.sink import S3Sink

__all__ = ["S3Options", "S3Sink"]
