"""One JSON line a call, through Powertools' logger. Names, amounts and causes; never keys, prompts or answers."""

from collections.abc import Mapping
from typing import Any

from aws_lambda_powertools import Logger


class Telemetry:
    """Where the proxy says what it did."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    def invocation(self, request_id: str) -> None:
        """Put Lambda's own id of this invocation into the lines to come, beside API Gateway's id of the request."""
        self._logger.append_keys(function_request_id=request_id)

    def call(self, fields: Mapping[str, Any]) -> None:
        """A call that was admitted and has ended."""
        self._logger.info("call", extra=dict(fields))

    def refusal(self, fields: Mapping[str, Any]) -> None:
        """A request that was refused."""
        self._logger.info("refusal", extra=dict(fields))

    def resolved(self, fields: Mapping[str, Any]) -> None:
        """A lost call whose cost has been found, or booked at its hold."""
        self._logger.info("resolved", extra=dict(fields))

    def changed(self, fields: Mapping[str, Any]) -> None:
        """A tenant or one of its keys was changed: by whom, and what; never what a key is."""
        self._logger.info("changed", extra=dict(fields))

    def state(self, fields: Mapping[str, Any]) -> None:
        """A budget window of a tenant is in another state now."""
        self._logger.info("state", extra=dict(fields))

    def circuit(self, fields: Mapping[str, Any]) -> None:
        """The circuit of a model has opened, is being tried, or has closed."""
        self._logger.warning("circuit", extra=dict(fields))

    def dropped(self, fields: Mapping[str, Any]) -> None:
        """A rule or a chain names a model that has no price (any more), and goes on without it."""
        self._logger.warning("dropped", extra=dict(fields))

    def journal(self, fields: Mapping[str, Any]) -> None:
        """A call that was let through without the ledger: this line is its record until it is booked."""
        self._logger.error("journal", extra=dict(fields))

    def overrun(self, fields: Mapping[str, Any]) -> None:
        """A call that cost more than was held for it: the bound was not one, which must be looked into."""
        self._logger.error("overrun", extra=dict(fields))

    def fee(self, fields: Mapping[str, Any]) -> None:
        """A model has billed a fee that its prices do not have: from now on it is held."""
        self._logger.warning("fee learnt", extra=dict(fields))

    def hour(self, fields: Mapping[str, Any]) -> None:
        """An hour of many spans has been summed."""
        self._logger.info("hour", extra=dict(fields))

    def folded(self, fields: Mapping[str, Any]) -> None:
        """The rollups have been brought up to the spans: how much that was, and until when they are final."""
        self._logger.info("folded", extra=dict(fields))

    def skipped(self, fields: Mapping[str, Any]) -> None:
        """A span that cannot be read is in no rollup; its key, not its content."""
        self._logger.error("skipped", extra=dict(fields))

    def failure(self, what: str, fields: Mapping[str, Any]) -> None:
        """Something of ours that did not work; called inside an `except` block."""
        self._logger.exception(what, extra=dict(fields))
