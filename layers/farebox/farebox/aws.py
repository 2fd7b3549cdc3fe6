"""Clients of AWS services, and DynamoDB's way of writing values.

botocore's client is the one that boto3 hands out; importing boto3 for it adds its S3 transfers, 90 of the 440
milliseconds of a cold start (`make bench-cold`).
"""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from botocore.config import Config
from botocore.session import Session

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_secretsmanager import SecretsManagerClient

Item = Mapping[str, Any]


@functools.cache
def _session() -> Session:
    """One a process: it has read the descriptions of the services, which takes longer than making a client."""
    return Session()


def dynamodb_client() -> "DynamoDBClient":
    """With bounded waits; safe to share between threads. AWS_ENDPOINT_URL_DYNAMODB moves it to a local store."""
    config = Config(
        connect_timeout=1,
        read_timeout=3,
        max_pool_connections=256,
        retries={"mode": "standard", "total_max_attempts": 3},
    )
    return cast("DynamoDBClient", _session().create_client("dynamodb", config=config))


def secrets_client() -> "SecretsManagerClient":
    """With bounded waits."""
    config = Config(connect_timeout=2, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 3})
    return cast("SecretsManagerClient", _session().create_client("secretsmanager", config=config))


def to_dynamodb(item: Item) -> dict[str, Any]:
    """Texts, whole numbers, truth values and objects of them. Raises TypeError for anything else."""
    return {name: _written(value) for name, value in item.items()}


def from_dynamodb(item: Item) -> dict[str, Any]:
    """The opposite."""
    return {name: _read(value) for name, value in item.items()}


def _written(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"BOOL": value}
    if isinstance(value, int):
        return {"N": str(value)}
    if isinstance(value, str):
        return {"S": value}
    if isinstance(value, Mapping):
        return {"M": to_dynamodb(value)}
    raise TypeError(f"{type(value).__name__} has no place in the table")


def _read(value: Mapping[str, Any]) -> Any:
    ((kind, content),) = value.items()
    match kind:
        case "N":
            return int(content)
        case "M":
            return from_dynamodb(content)
        case "S" | "BOOL":
            return content
        case _:
            raise TypeError(f"DynamoDB's {kind} is not used in the table")
