"""Prices asked from upstream and kept for a while; the last good ones are kept when upstream does not answer.

Old prices of prompt and completion cannot overspend: the cap that a quote was made with goes upstream
(provider.max_price), so a dearer endpoint refuses the call instead of serving it. Cache writes, media and a longer
context are in no cap; what they cost may be as old as what is kept here, and so may a fee that was learnt (fees.py).
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar
from urllib.parse import quote as url_quote

from .errors import CatalogueUnavailable, ModelNotPriced
from .money import loads_exact
from .rates import PricedModel, other_names, priced_model, require_priced
from .settlement import text_of
from .store import StoreError, refusal
from .upstream import Lost, NotSent, Upstream

Row = Mapping[str, Any]
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class _Kept(Generic[Value]):
    value: Value
    until: float


class Catalogue:
    """/models, and /models/{id}/endpoints of the models that are asked for. Safe to share between threads."""

    def __init__(
        self,
        upstream: Upstream,
        ttl_s: float,
        monotonic: Callable[[], float],
        fee: Callable[[str], int] = lambda _name: 0,
    ) -> None:
        """`fee` tells what was learnt of a model, in nano-dollars, by one of its names. Raises StoreError."""
        self._upstream = upstream
        self._ttl_s = ttl_s
        self._monotonic = monotonic
        self._fee = fee
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._rows: _Kept[Mapping[str, Row]] | None = None
        self._endpoints: dict[str, list[Row]] = {}
        self._models: dict[str, _Kept[PricedModel]] = {}
        self._lessons = 0

    def model(self, name: str) -> PricedModel:
        """The prices of a model by its id or canonical slug. Raises ModelNotPriced, CatalogueUnavailable,
        StoreUnavailable.

        One thread asks; the others go on with the old prices, or wait where there are none.
        """
        kept = self._models.get(name)
        if kept is not None and kept.until > self._monotonic():
            return kept.value
        row = self._row(name)
        require_priced(row)
        lock = self._locks[name]
        if not lock.acquire(blocking=kept is None) and kept is not None:
            return kept.value
        try:
            fresh = self._models.get(name)
            if fresh is not None and fresh is not kept:
                return fresh.value
            lessons = self._lessons
            model = self._with_targets(priced_model(row, self._endpoints_of(str(row.get("id"))), name=name))
            model = replace(model, learnt_nanousd=self._learnt(model, fresh))
            if lessons == self._lessons:  # else it may have been read before the lesson
                self._models[name] = _Kept(model, self._monotonic() + self._ttl_s)
            return model
        finally:
            lock.release()

    def _with_targets(self, model: PricedModel) -> PricedModel:
        """With all the names of what an alias stands for: its row has only one of them."""
        rows = {} if self._rows is None else self._rows.value
        return replace(model, also=model.also.union(*(other_names(rows[name]) for name in model.also if name in rows)))

    def _learnt(self, model: PricedModel, kept: _Kept[PricedModel] | None) -> int:
        """The highest under any of its names, or the last one known. Raises StoreUnavailable."""
        try:
            return max(self._fee(name) for name in sorted({model.id, *model.also}))
        except StoreError as e:
            if kept is None:
                raise refusal(e) from e
            return kept.value.learnt_nanousd

    def forget(self, names: frozenset[str]) -> None:
        """A fee was learnt under these names: no call goes on with what is kept of them."""
        self._lessons += 1
        for name, kept in list(self._models.items()):
            if names & {name, *kept.value.also}:
                self._models.pop(name, None)

    def expire(self, name: str) -> None:
        """Ask again at the next call: upstream refused our price cap, so its prices have risen."""
        if (kept := self._models.get(name)) is not None:
            self._models[name] = replace(kept, until=0)
        if (rows := self._rows) is not None:
            self._rows = replace(rows, until=0)

    def _row(self, name: str) -> Row:
        with self._locks[""]:
            rows = self._rows
            if rows is None or rows.until <= self._monotonic():
                rows = self._rows = _Kept(self._all_rows(rows), self._monotonic() + self._ttl_s)
        if name not in rows.value:
            raise ModelNotPriced(
                f"{name[:100]} is not in the catalogue of models, so it has no price", facts={"model": name}
            )
        return rows.value[name]

    def _all_rows(self, last_good: _Kept[Mapping[str, Row]] | None) -> Mapping[str, Row]:
        data = self._get("/models")
        if not isinstance(data, list):
            if last_good is None:
                raise CatalogueUnavailable(
                    "upstream did not tell the prices of its models, so nothing can be quoted; nothing was spent",
                    headers={"Retry-After": "5"},
                )
            return last_good.value
        # A name goes into headers, paths and keys: what can be none names no model.
        rows = {id_: row for row in data if isinstance(row, Mapping) and (id_ := text_of(row.get("id"))) is not None}
        # A variant (":free") shares its canonical slug with the model, and must not lend it its price.
        slugs = {text_of(row.get("canonical_slug")): row for id_, row in rows.items() if ":" not in id_}
        named = {slug: row for slug, row in slugs.items() if slug is not None}
        return {**named, **rows}

    def _endpoints_of(self, name: str) -> list[Row]:
        """The last good ones when upstream does not answer; none at all (an upstream without that route): the row of
        /models stands alone, and its price is the cap."""
        data = self._get(f"/models/{url_quote(name, safe='/:@~')}/endpoints")
        endpoints = data.get("endpoints") if isinstance(data, Mapping) else None
        if isinstance(endpoints, list):
            self._endpoints[name] = [row for row in endpoints if isinstance(row, Mapping)]
        return self._endpoints.get(name, [])

    def _get(self, path: str) -> object:
        """The `data` of an answer, or None for whatever is not one."""
        try:
            status, body = self._upstream.get(path)
            said = loads_exact(body) if status == 200 else None
        except (NotSent, Lost, ValueError):
            return None
        return said.get("data") if isinstance(said, Mapping) else None
