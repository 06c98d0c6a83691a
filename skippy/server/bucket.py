"""Whether an S3-compatible store is there and takes what is put into it, asked before anything rests on it."""

from __future__ import annotations

import os
from importlib import import_module
from urllib.parse import urlsplit

from skippy.errors import ServerError

ENDPOINT_VARIABLE = "MLFLOW_S3_ENDPOINT_URL"


def require(uri: str) -> None:
    """Ask for the bucket of `s3://bucket/prefix`, at `MLFLOW_S3_ENDPOINT_URL` where it is not Amazon's.

    Raises:
        ServerError: boto3 is not installed, no credentials, no such bucket, or nobody answers.
    """
    endpoint = os.environ.get(ENDPOINT_VARIABLE)
    try:
        boto3, config = import_module("boto3"), import_module("botocore.config")
    except ModuleNotFoundError as error:
        raise ServerError(
            "Artifacts in S3 need a package that is not installed.",
            expected="boto3",
            next_step="pip install -e '.[server]'",
        ) from error
    failures = import_module("botocore.exceptions")
    limits = config.Config(connect_timeout=5, read_timeout=10, retries={"max_attempts": 1})
    try:
        boto3.client("s3", endpoint_url=endpoint, config=limits).head_bucket(Bucket=urlsplit(uri).netloc)
    except (failures.BotoCoreError, failures.ClientError, ValueError) as error:
        raise ServerError(
            "The bucket for artifacts cannot be used.",
            where=f"{uri} at {endpoint or 'Amazon'}",
            expected="a bucket that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY may read and write",
            found=str(error),
            next_step=f"make the bucket, set these variables and, unless it is Amazon's, {ENDPOINT_VARIABLE}",
        ) from error
