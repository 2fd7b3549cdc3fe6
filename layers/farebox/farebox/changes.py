"""What an owner does to a tenant's configuration: each function takes one as it is kept, and gives the next version.

What changes nothing gives the same configuration back, so whoever repeats a change after a lost answer makes no second
one. Raises Malformed for what can never be, and Conflict for what cannot be as the tenant is now.

    active <-> disabled        by its status
    active, disabled           -> deleted, until `purge_at`
    deleted                    -> active or disabled by its status, before `purge_at`
    deleted, after `purge_at`  gone: an empty configuration, whose name is free, and whose version goes on
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from .configs import Config
from .errors import Conflict, Malformed, NotFound
from .keys import MAX_KEYS, ApiKey
from .rules import RulesError, rules_of
from .tenants import Move, Raise, Status, Tenant, timestamp, windows

DAY_S = 86_400
GRACE_DAYS = 30
REMEMBERED_DAYS = 62
"""So long a purged tenant's version is kept: the ledgers that know it are over then."""
MAX_RAISE_DAYS = 366
REPEATED_S = 600
"""So long a key that was made with an Idempotency-Key may be made again, with another secret."""
BUDGETS = {"daily": "day_nanousd", "monthly": "month_nanousd"}
RULES = (
    "per_request", "in_flight", "warn_at", "degrade_at", "allow", "deny", "downgrade", "fallback", "server_tools",
    "media",
)  # fmt: skip


def is_gone(config: Config, now: datetime) -> bool:
    """Deleted, and past the time in which it could be brought back."""
    deleted = config.status is Status.DELETED
    return deleted and config.purge_at is not None and config.purge_at <= now.timestamp()


def is_purged(config: Config) -> bool:
    return config == replace(_empty(config), changed_at=config.changed_at)


def _empty(config: Config) -> Config:
    """What is left of a purged one."""
    return Config(config.name, config.version, status=Status.DELETED, purge_at=config.purge_at)


def months_around(config: Config, default: Tenant, now: datetime) -> list[str]:
    """The months whose ledgers a change is announced to.

    Clocks of functions may differ, an hour at most; and a tenant that was just made had been in the default's zone.
    """
    tenant = replace(default, time_zone=config.time_zone or default.time_zone, move=config.move)
    moments = (now, now - timedelta(hours=1), now + timedelta(hours=1))
    months = [found.month for at in moments for found in (tenant.windows(at), windows(at, default.time_zone))]
    return list(dict.fromkeys(months))


# A tenant.


def created(before: Config, wanted: Mapping[str, Any], default: Tenant, now: datetime, *, has_called: bool) -> Config:
    """A new tenant, in the place of a default or a purged one. One that has not called yet is in its zone at once."""
    base = Config(before.name, before.version, created_at=_seconds(now))
    if not has_called and wanted.get("time_zone") is not None:
        base = replace(base, time_zone=checked_zone(wanted["time_zone"]))
    made = _amended(base, wanted, default, now)
    return replace(made, version=before.version + 1, changed_at=_seconds(now))


def changed(config: Config, wanted: Mapping[str, Any], default: Tenant, now: datetime) -> Config:
    """With what is wanted laid over it; None is the default again."""
    if config.status is Status.DELETED and "status" not in wanted:
        raise Conflict(
            f'tenant {config.name} is deleted; bring it back with {{"status": "active"}} first',
            facts={"tenant": config.name},
        )
    return _next(config, _amended(config, wanted, default, now), now)


def deleted(config: Config, grace_days: int | None, now: datetime) -> Config:
    """Nothing is admitted from now on. Who repeats it without a time does not move the end."""
    if config.status is Status.DELETED and grace_days is None:
        return config
    purge_at = _seconds(now) + (GRACE_DAYS if grace_days is None else grace_days) * DAY_S
    return _next(config, replace(config, status=Status.DELETED, purge_at=purge_at), now)


def purged(config: Config, now: datetime) -> Config:
    """The end: without keys, rules and notes. The version stays, since ledgers know it."""
    return config if is_purged(config) else _next(config, _empty(config), now)


def has_same_content(config: Config, other: Config) -> bool:
    """Whether somebody who creates one would have made the other."""
    return _content(config) == _content(other)


def _content(config: Config) -> tuple[Any, ...]:
    zone = config.time_zone if config.move is None else config.move.zone
    return (config.day_nanousd, config.month_nanousd, zone, config.rules, config.note, config.raised, config.status)


def _next(before: Config, after: Config, now: datetime) -> Config:
    if after == before:
        return before
    return replace(after, version=before.version + 1, changed_at=_seconds(now))


def _amended(config: Config, wanted: Mapping[str, Any], default: Tenant, now: datetime) -> Config:
    fields: dict[str, Any] = {BUDGETS[name]: wanted[name] for name in BUDGETS.keys() & wanted.keys()}
    if "note" in wanted:
        fields["note"] = wanted["note"] or ""
    if "raise" in wanted:
        fields["raised"] = _raised(wanted["raise"], now)
    if "status" in wanted:
        fields |= {"status": wanted["status"], "purge_at": None}
    if wanted.keys() & set(RULES):  # others may contradict the default's by now, which must not keep a tenant open
        fields["rules"] = _rules(config.rules, wanted, default)
    after = replace(config, **fields)
    return _moved(after, wanted["time_zone"], default, now) if "time_zone" in wanted else after


def _raised(raised: Raise | None, now: datetime) -> Raise | None:
    if raised is None:
        return None
    if raised.day_nanousd is None and raised.month_nanousd is None:
        raise _malformed("raise", "needs daily, monthly or both")
    if not now.timestamp() < raised.until <= (now + timedelta(days=MAX_RAISE_DAYS)).timestamp():
        raise _malformed("raise.until", f"must be a moment to come, and at most {MAX_RAISE_DAYS} days away")
    return raised


def _rules(known: Mapping[str, Any], wanted: Mapping[str, Any], default: Tenant) -> Mapping[str, Any]:
    """As they are kept: amounts and fractions as text, so that no float comes near them."""
    rules = {**known, **{name: wanted[name] for name in RULES if name in wanted}}
    rules = {name: rules[name] for name in RULES if rules.get(name) is not None}
    try:
        content = rules_of(rules, default.rules).content()
    except RulesError as e:
        name, _, sentence = str(e).removeprefix("[").partition("]")
        field = name if sentence else "rules"
        raise _malformed(field, (sentence or str(e)).removeprefix(":").strip()) from None
    return {name: content[name] for name in rules}


def _moved(config: Config, wanted: str | None, default: Tenant, now: datetime) -> Config:
    """Into another zone, from the next month on."""
    config = _arrived(config, now)
    zone, here = checked_zone(wanted or default.time_zone), config.time_zone or default.time_zone
    if zone == here:
        return replace(config, time_zone=None if wanted is None else zone, move=None)
    return replace(config, time_zone=here, move=Move(zone, month_after(windows(now, here).month)))


def _arrived(config: Config, now: datetime) -> Config:
    """A move that was made, in both zones, is forgotten."""
    move = config.move
    if move is None or config.time_zone is None or windows(now, config.time_zone).month < move.month:
        return config
    there = windows(now, move.zone)
    if there.month < move.month:
        raise Conflict(
            f"the time zone is just changing; try again after {timestamp(there.month_resets_at)}",
            facts={"tenant": config.name, "field": "time_zone"},
        )
    return replace(config, time_zone=move.zone, move=None)


def checked_zone(name: str) -> str:
    """Raises Malformed."""
    try:
        ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        raise _malformed("time_zone", f"must be a zone like Europe/Berlin, not {name[:40]!r}") from None
    return name


def month_after(month: str) -> str:
    """2026-12 -> 2027-01"""
    year, number = map(int, month.split("-"))
    return f"{year + number // 12:04}-{number % 12 + 1:02}"


# Its keys.


@dataclass(frozen=True, slots=True)
class NewKey:
    """What an owner says of a key."""

    name: str
    month_nanousd: int | None = None
    feature: str | None = None
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """How one key follows another: how long the old one is good for yet, and when the new one ends."""

    overlap_s: int
    keeps_end: bool = True
    expires_at: int | None = None


def with_key(config: Config, id_: str, digest: str, wanted: NewKey, now: datetime) -> Config:
    """One key more. Who makes one with the id of a young key again, and wants the same, has lost its secret."""
    _require_open(config)
    seconds = _seconds(now)
    _require_to_come(wanted.expires_at, seconds)
    known = config.keys.get(id_)
    if known is None:
        key = ApiKey(id_, digest, wanted.name, seconds, wanted.expires_at, None, wanted.month_nanousd, wanted.feature)
        return _next(config, replace(config, keys={**_with_room(config, seconds), id_: key}), now)
    is_same = NewKey(known.name, known.month_nanousd, known.feature, known.expires_at) == wanted
    return _made_again(config, known, digest, now, is_same=is_same)


def changed_key(config: Config, id_: str, wanted: Mapping[str, Any], now: datetime) -> Config:
    """`wanted` has fields of ApiKey."""
    _require_open(config)
    key = _good_key(config, id_, now)
    _require_to_come(wanted.get("expires_at"), _seconds(now))
    return _next(config, _replaced(config, replace(key, **wanted)), now)


def rotated(config: Config, old_id: str, id_: str, digest: str, wanted: Turn, now: datetime) -> Config:
    """A key in the place of another, which is good for some time yet. Who repeats it moves no end."""
    _require_open(config)
    if (known := config.keys.get(id_)) is not None:
        is_same = _is_successor(known, known_key(config, old_id), wanted)
        return _made_again(config, known, digest, now, is_same=is_same)
    old, seconds = _good_key(config, old_id, now), _seconds(now)
    ends = old.expires_at if wanted.keeps_end else wanted.expires_at
    _require_to_come(ends, seconds)
    new = replace(old, id=id_, digest=digest, created_at=seconds, expires_at=ends, counts_as=old.counter)
    over = seconds + wanted.overlap_s
    old = replace(old, expires_at=over if old.expires_at is None else min(over, old.expires_at))
    keys = {**_with_room(config, seconds), old_id: old, id_: new}
    return _next(config, replace(config, keys=keys), now)


def _is_successor(new: ApiKey, old: ApiKey, wanted: Turn) -> bool:
    """Whether this turn has made the one of the other, as far as the old one's first end is known yet."""
    over = new.created_at + wanted.overlap_s
    made = replace(old, id=new.id, digest=new.digest, created_at=new.created_at, revoked_at=None, counts_as=old.counter)
    if wanted.keeps_end:
        ended = over if new.expires_at is None else min(over, new.expires_at)
        return old.expires_at == ended and new == replace(made, expires_at=new.expires_at)
    return old.expires_at is not None and old.expires_at <= over and new == replace(made, expires_at=wanted.expires_at)


def _made_again(config: Config, key: ApiKey, digest: str, now: datetime, *, is_same: bool) -> Config:
    """With another secret, for who has lost the first."""
    if not is_same or key.revoked_at is not None or _seconds(now) - key.created_at > REPEATED_S:
        raise Conflict(
            f"the key {key.id} was made with this Idempotency-Key before, and it is not the same, was revoked, "
            f"or is older than {REPEATED_S // 60} minutes",
            facts={"tenant": config.name, "key": key.id},
        )
    return _next(config, _replaced(config, replace(key, digest=digest)), now)


def revoked(config: Config, id_: str, now: datetime) -> Config:
    """From now on this key is no good; also of a tenant that is deleted."""
    key = known_key(config, id_)
    if key.revoked_at is not None:
        return config
    return _next(config, _replaced(config, replace(key, revoked_at=_seconds(now))), now)


def known_key(config: Config, id_: str) -> ApiKey:
    """Raises NotFound."""
    if (key := config.keys.get(id_)) is None:
        raise NotFound(f"tenant {config.name} has no key {id_[:40]!r}", facts={"tenant": config.name})
    return key


def _good_key(config: Config, id_: str, now: datetime) -> ApiKey:
    key = known_key(config, id_)
    if not key.is_good(_seconds(now)):
        raise Conflict(f"the key {id_} was revoked or has expired", facts={"tenant": config.name, "key": id_})
    return key


def _require_to_come(ends: int | None, now: int) -> None:
    if ends is not None and ends <= now:
        raise _malformed("expires_at", "must be a moment to come; a key is ended at once by deleting it")


def _require_open(config: Config) -> None:
    if config.status is Status.DELETED:
        raise Conflict(f"tenant {config.name} is deleted", facts={"tenant": config.name})


def _replaced(config: Config, key: ApiKey) -> Config:
    return replace(config, keys={**config.keys, key.id: key})


def _with_room(config: Config, now: int) -> dict[str, ApiKey]:
    """The keys that one can be added to: of too many, those that have ended give way, the first ones first."""
    ended = sorted((key for key in config.keys.values() if not key.is_good(now)), key=lambda key: _ended_at(key, now))
    over = max(0, len(config.keys) + 1 - MAX_KEYS)
    if len(ended) < over:
        raise Conflict(f"tenant {config.name} has {MAX_KEYS} keys that are good", facts={"tenant": config.name})
    gone = {key.id for key in ended[:over]}
    return {id_: key for id_, key in config.keys.items() if id_ not in gone}


def _ended_at(key: ApiKey, now: int) -> int:
    return min(end for end in (key.revoked_at, key.expires_at, now) if end is not None)


# Words.


def warnings_of(config: Config, tenant: Tenant, now: datetime) -> list[str]:
    """What is allowed, and perhaps not meant. `tenant` is the configuration laid over its default."""
    found, limits = [], tenant.limits
    if limits.day_nanousd > limits.month_nanousd:
        found.append("daily is above monthly, so a month's budget can be spent in a day")
    raised = config.raised
    if raised is not None and now.timestamp() < raised.until:
        pairs = (
            ("daily", raised.day_nanousd, limits.day_nanousd),
            ("monthly", raised.month_nanousd, limits.month_nanousd),
        )
        for name, higher, usual in pairs:
            if higher is not None and (higher <= usual or usual == 0):
                found.append(f"raise.{name} is not above {name}, or that is 0, so it changes nothing")
    return found


def _malformed(field: str, sentence: str) -> Malformed:
    return Malformed(f"{field}: {sentence}", facts={"field": field})


def _seconds(now: datetime) -> int:
    return int(now.astimezone(UTC).timestamp())
