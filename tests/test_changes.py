"""Changes of a configuration, without a store: each gives the next version, or says why it cannot be."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from farebox import changes
from farebox.changes import DAY_S, NewKey, Turn
from farebox.configs import Config
from farebox.errors import Conflict, Malformed, NotFound
from farebox.keys import MAX_KEYS, ApiKey
from farebox.ledger import Limits
from farebox.tenants import Move, Raise, Status, Tenant

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
DEFAULT = Tenant("acme", Limits(10**10, 10**11, 0))
PLAIN = Config("acme", 3, created_at=1, changed_at=2)
LAPTOP = NewKey("laptop")


def changed(config: Config = PLAIN, at: datetime = NOW, **wanted: Any) -> Config:
    return changes.changed(config, wanted, DEFAULT, at)


def keyed(config: Config = PLAIN, id_: str = "a", digest: str = "d", wanted: NewKey = LAPTOP) -> Config:
    return changes.with_key(config, id_, digest, wanted, NOW)


def raised(value: Raise | None, config: Config = PLAIN) -> Config:
    return changes.changed(config, {"raise": value}, DEFAULT, NOW)


Doings = list[Callable[[], Config]]

# A tenant.


def test_a_change_is_the_next_version_and_the_moment_of_it() -> None:
    assert changed(daily=5) == replace(PLAIN, day_nanousd=5, version=4, changed_at=SECONDS)


def test_what_changes_nothing_is_the_same_configuration() -> None:
    five = changed(daily=5, note="x", per_request=Decimal("0.50"))
    assert changed(five, daily=5, note="x", per_request="0.5") is five
    assert changed() is PLAIN


def test_what_is_left_out_stays_and_none_is_the_default_again() -> None:
    both = changed(daily=5, monthly=50, note="x", per_request=1, deny=["*-pro"])
    after = changed(both, daily=None, per_request=None, note=None)
    assert (after.day_nanousd, after.month_nanousd, after.note) == (None, 50, "")
    assert after.rules == {"deny": ["*-pro"]}


def test_rules_are_kept_as_text_so_that_no_float_comes_near_them() -> None:
    kept = changed(per_request=Decimal("9999999.123456789"), warn_at=Decimal("0.7"), in_flight=3)
    assert kept.rules == {"per_request": "9999999.123456789", "warn_at": "0.7", "in_flight": 3}
    assert Config.of("acme", kept.item()) == kept


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"downgrade": [{"from": ["a/b"], "to": "c/d"}, {"from": "c/d", "to": "a/b"}]}, "downgrade"),
        ({"warn_at": Decimal("0.95")}, "rules"),
        ({"allow": [""]}, "allow"),
        ({"time_zone": "Mars/Olympus"}, "time_zone"),
        ({"time_zone": "../UTC"}, "time_zone"),
        ({"raise": Raise(None, None, SECONDS + 60)}, "raise"),
        ({"raise": Raise(5, None, SECONDS)}, "raise.until"),
        ({"raise": Raise(5, None, SECONDS + 367 * DAY_S)}, "raise.until"),
    ],
)
def test_what_can_never_be_is_malformed_and_named(wanted: dict[str, Any], field: str) -> None:
    with pytest.raises(Malformed) as refused:
        changed(**wanted)
    assert refused.value.facts == {"field": field}
    assert refused.value.message.startswith(f"{field}: ")


def test_a_raise_lasts_until_its_moment_and_none_ends_it() -> None:
    more = Raise(5, None, SECONDS + 60)
    assert raised(more).raised == more
    assert raised(None, raised(more)).raised is None


def test_an_active_tenant_is_disabled_and_the_other_way_round() -> None:
    disabled = changed(status=Status.DISABLED)
    assert disabled.status is Status.DISABLED
    assert changed(disabled, status=Status.ACTIVE).status is Status.ACTIVE


# Made, deleted, purged.


def test_a_tenant_is_made_as_the_next_version_even_of_nothing() -> None:
    made = changes.created(Config("acme", 0), {}, DEFAULT, NOW, has_called=False)
    assert made == Config("acme", 1, created_at=SECONDS, changed_at=SECONDS)


def test_a_new_tenant_is_in_its_zone_at_once_unless_it_has_called() -> None:
    berlin = {"time_zone": "Europe/Berlin"}
    new = changes.created(Config("acme", 0), berlin, DEFAULT, NOW, has_called=False)
    assert (new.time_zone, new.move) == ("Europe/Berlin", None)
    known = changes.created(Config("acme", 0), berlin, DEFAULT, NOW, has_called=True)
    assert (known.time_zone, known.move) == ("UTC", Move("Europe/Berlin", "2026-12"))
    assert changes.has_same_content(new, known)


def test_a_zone_of_a_new_tenant_that_is_none_is_refused() -> None:
    with pytest.raises(Malformed):
        changes.created(Config("acme", 0), {"time_zone": "Mars/X"}, DEFAULT, NOW, has_called=False)


def test_other_content_is_seen_in_every_field_that_somebody_creates() -> None:
    made = changes.created(Config("acme", 0), {"daily": 5, "note": "x"}, DEFAULT, NOW, has_called=False)
    assert changes.has_same_content(made, replace(made, version=9, changed_at=1, keys=keyed().keys))
    for other in ({"day_nanousd": 6}, {"month_nanousd": 6}, {"note": "y"}, {"rules": {"deny": ["*"]}},
                  {"time_zone": "UTC"}, {"status": Status.DISABLED}):  # fmt: skip
        assert not changes.has_same_content(made, replace(made, **other))


def test_a_deleted_tenant_can_be_brought_back_until_its_time_is_over() -> None:
    gone_at = SECONDS + 30 * DAY_S
    deleted = changes.deleted(PLAIN, None, NOW)
    assert (deleted.status, deleted.purge_at, deleted.version) == (Status.DELETED, gone_at, 4)
    assert not changes.is_gone(deleted, NOW + timedelta(days=30, seconds=-1))
    assert changes.is_gone(deleted, NOW + timedelta(days=30))
    back = changed(deleted, status=Status.ACTIVE)
    assert (back.status, back.purge_at, back.version) == (Status.ACTIVE, None, 5)
    assert not changes.is_gone(back, NOW + timedelta(days=99))


def test_who_deletes_again_moves_the_end_only_by_saying_so() -> None:
    deleted = changes.deleted(PLAIN, 5, NOW)
    assert changes.deleted(deleted, None, NOW + timedelta(days=1)) is deleted
    assert changes.deleted(deleted, 0, NOW).purge_at == SECONDS


def test_a_deleted_tenant_takes_no_other_change() -> None:
    deleted = changes.deleted(keyed(), None, NOW)
    doings: Doings = [
        lambda: changed(deleted, daily=5),
        lambda: keyed(deleted, "b"),
        lambda: changes.changed_key(deleted, "a", {"name": "x"}, NOW),
        lambda: changes.rotated(deleted, "a", "b", "d", Turn(0), NOW),
    ]
    for change in doings:
        with pytest.raises(Conflict, match="tenant acme is deleted"):
            change()
    assert changes.revoked(deleted, "a", NOW).keys["a"].revoked_at == SECONDS


def test_a_purged_tenant_keeps_its_name_and_its_version_and_nothing_else() -> None:
    deleted = changes.deleted(keyed(changed(daily=5, note="x", deny=["*"])), 0, NOW)
    purged = changes.purged(deleted, NOW)
    empty = Config("acme", deleted.version + 1)
    assert purged == replace(empty, status=Status.DELETED, purge_at=SECONDS, changed_at=SECONDS)
    assert changes.is_gone(purged, NOW)
    assert changes.purged(purged, NOW + timedelta(days=1)) is purged


# Time zones.


def test_another_zone_begins_with_the_next_month() -> None:
    moved = changed(time_zone="Europe/Berlin")
    assert (moved.time_zone, moved.move) == ("UTC", Move("Europe/Berlin", "2026-12"))
    other = changed(moved, time_zone="Asia/Kathmandu")
    assert other.move == Move("Asia/Kathmandu", "2026-12")
    assert changed(other, time_zone="UTC").move is None
    assert (changed(other, time_zone=None).time_zone, changed(other, time_zone=None).move) == (None, None)


def test_none_is_the_default_s_zone_from_the_next_month_on() -> None:
    berlin = replace(PLAIN, time_zone="Europe/Berlin")
    assert changed(berlin, time_zone=None).move == Move("UTC", "2026-12")


@pytest.mark.parametrize("zone", ["Pacific/Chatham", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Los_Angeles"])
def test_a_move_that_was_made_is_where_the_next_one_starts(zone: str) -> None:
    moved = changed(time_zone=zone)
    later = changed(moved, datetime(2026, 12, 2, 12, 0, tzinfo=UTC), time_zone="Europe/Berlin")
    assert (later.time_zone, later.move) == (zone, Move("Europe/Berlin", "2027-01"))


def test_while_one_zone_is_in_the_new_month_and_the_other_is_not_no_zone_is_changed() -> None:
    moved = changed(time_zone="America/Los_Angeles")
    with pytest.raises(Conflict, match="try again after 2026-12-01T08:00:00Z"):
        changed(moved, datetime(2026, 12, 1, 3, 0, tzinfo=UTC), time_zone="UTC")


def test_a_change_is_announced_to_the_months_around_it_in_the_old_zone_and_the_default_s() -> None:
    def months(at: datetime, **fields: Any) -> list[str]:
        return changes.months_around(replace(PLAIN, **fields), DEFAULT, at)

    turn = datetime(2026, 12, 1, 0, 0, tzinfo=UTC)
    assert months(NOW) == ["2026-11"]
    assert sorted(months(turn - timedelta(minutes=59))) == sorted(months(turn)) == ["2026-11", "2026-12"]
    assert months(turn + timedelta(minutes=61)) == ["2026-12"]
    assert sorted(months(turn - timedelta(hours=5), time_zone="Pacific/Chatham")) == ["2026-11", "2026-12"]
    moved = {"time_zone": "UTC", "move": Move("America/Los_Angeles", "2026-12")}
    assert months(turn + timedelta(hours=5), **moved) == ["2026-12"]


@pytest.mark.parametrize(("month", "after"), [("2026-11", "2026-12"), ("2026-12", "2027-01")])
def test_a_month_is_followed_by_the_next_one(month: str, after: str) -> None:
    assert changes.month_after(month) == after


# Keys.


def test_a_key_is_kept_by_its_digest_with_what_was_said_of_it() -> None:
    wanted = NewKey("laptop", 5, "search", SECONDS + 60)
    after = keyed(wanted=wanted)
    assert after.keys == {"a": ApiKey("a", "d", "laptop", SECONDS, SECONDS + 60, None, 5, "search")}
    assert after.version == 4


def test_the_same_key_again_within_ten_minutes_has_another_secret_only() -> None:
    first = keyed()
    again = changes.with_key(first, "a", "e", LAPTOP, NOW + timedelta(minutes=10))
    assert again.keys == {"a": replace(first.keys["a"], digest="e")}
    with pytest.raises(Conflict, match="Idempotency-Key"):
        changes.with_key(first, "a", "e", LAPTOP, NOW + timedelta(minutes=10, seconds=1))
    with pytest.raises(Conflict):
        keyed(first, "a", "e", NewKey("other"))
    with pytest.raises(Conflict):
        keyed(changes.revoked(first, "a", NOW))


def test_a_key_ends_at_a_moment_to_come() -> None:
    doings: Doings = [
        lambda: keyed(wanted=NewKey("x", expires_at=SECONDS)),
        lambda: changes.changed_key(keyed(), "a", {"expires_at": SECONDS}, NOW),
        lambda: changes.rotated(keyed(), "a", "b", "e", Turn(0, keeps_end=False, expires_at=SECONDS), NOW),
    ]
    for change in doings:
        with pytest.raises(Malformed, match="expires_at"):
            change()


def test_a_key_is_changed_in_what_is_said() -> None:
    capped = keyed(wanted=NewKey("x", 5, None, SECONDS + 60))
    after = changes.changed_key(capped, "a", {"month_nanousd": None, "name": "y"}, NOW)
    assert after.keys["a"] == replace(capped.keys["a"], month_nanousd=None, name="y")


def test_a_rotated_key_and_its_successor_are_good_side_by_side_for_the_overlap() -> None:
    old = keyed(wanted=NewKey("x", 5, "search", SECONDS + 9 * DAY_S))
    after = changes.rotated(old, "a", "b", "e", Turn(DAY_S), NOW)
    assert after.keys["a"] == replace(old.keys["a"], expires_at=SECONDS + DAY_S)
    assert after.keys["b"] == replace(old.keys["a"], id="b", digest="e", created_at=SECONDS, counts_as="a")
    assert after.version == old.version + 1
    endless = changes.rotated(after, "a", "c", "f", Turn(2 * DAY_S, keeps_end=False), NOW)
    assert (endless.keys["a"].expires_at, endless.keys["c"].expires_at) == (SECONDS + DAY_S, None)
    assert endless.keys["c"].counter == "a"
    third = changes.rotated(after, "b", "d", "f", Turn(0), NOW)
    assert third.keys["d"].counter == "a"
    at_once = changes.rotated(keyed(), "a", "b", "e", Turn(0), NOW)
    assert not at_once.keys["a"].is_good(SECONDS)


def test_a_revoked_key_is_no_good_and_revoking_it_again_changes_nothing() -> None:
    revoked = changes.revoked(keyed(), "a", NOW)
    assert revoked.keys["a"].revoked_at == SECONDS
    assert changes.revoked(revoked, "a", NOW + timedelta(days=1)) is revoked


def test_a_key_that_has_ended_is_neither_changed_nor_rotated() -> None:
    revoked = changes.revoked(keyed(), "a", NOW)
    with pytest.raises(Conflict):
        changes.changed_key(revoked, "a", {"name": "x"}, NOW)
    with pytest.raises(Conflict):
        changes.rotated(revoked, "a", "b", "e", Turn(0), NOW)


def test_a_key_that_is_not_there_is_not_found() -> None:
    doings: Doings = [
        lambda: changes.changed_key(PLAIN, "a", {"name": "x"}, NOW),
        lambda: changes.rotated(PLAIN, "a", "b", "e", Turn(0), NOW),
        lambda: changes.revoked(PLAIN, "a", NOW),
    ]
    for change in doings:
        with pytest.raises(NotFound):
            change()


def test_a_rotation_that_is_repeated_within_ten_minutes_has_another_secret_and_moves_no_end() -> None:
    old = keyed(wanted=NewKey("x", 5, "search", SECONDS + 9 * DAY_S))
    turns = (Turn(0), Turn(DAY_S), Turn(99 * DAY_S), Turn(99 * DAY_S, keeps_end=False),
             Turn(DAY_S, keeps_end=False, expires_at=SECONDS + 60 * DAY_S))  # fmt: skip
    for turn in turns:
        first = changes.rotated(old, "a", "b", "e", turn, NOW)
        again = changes.rotated(first, "a", "b", "f", turn, NOW + timedelta(minutes=10))
        assert again.keys == {**first.keys, "b": replace(first.keys["b"], digest="f")}
        with pytest.raises(Conflict, match="Idempotency-Key"):
            changes.rotated(first, "a", "b", "f", turn, NOW + timedelta(minutes=10, seconds=1))


def test_a_rotation_is_not_repeated_as_another_one() -> None:
    endless = changes.rotated(keyed(), "a", "b", "e", Turn(DAY_S), NOW)
    ending = changes.rotated(keyed(wanted=NewKey("laptop", expires_at=SECONDS + 99)), "a", "b", "e", Turn(DAY_S), NOW)
    others = [
        (endless, Turn(0)),
        (endless, Turn(2 * DAY_S)),
        (endless, Turn(0, keeps_end=False)),
        (endless, Turn(DAY_S, keeps_end=False, expires_at=SECONDS + DAY_S)),
        (ending, Turn(0)),
        (ending, Turn(DAY_S, keeps_end=False)),
        (changes.changed_key(endless, "b", {"name": "y"}, NOW), Turn(DAY_S)),
        (changes.changed_key(endless, "a", {"expires_at": None}, NOW), Turn(DAY_S)),
        (changes.changed_key(endless, "a", {"expires_at": None}, NOW), Turn(DAY_S, keeps_end=False)),
        (changes.revoked(endless, "b", NOW), Turn(DAY_S)),
    ]
    for config, turn in others:
        with pytest.raises(Conflict, match="Idempotency-Key"):
            changes.rotated(config, "a", "b", "f", turn, NOW)


def test_a_hundred_keys_are_enough_and_those_that_ended_first_give_way_first() -> None:
    key = ApiKey("x", "d", "laptop", SECONDS)
    full = replace(PLAIN, keys={f"k{number}": replace(key, id=f"k{number}") for number in range(MAX_KEYS)})
    with pytest.raises(Conflict, match="100 keys"):
        keyed(full)
    with pytest.raises(Conflict, match="100 keys"):
        changes.rotated(full, "k1", "b", "e", Turn(0), NOW)
    later = replace(key, id="k1", revoked_at=SECONDS)
    for ended in (replace(key, id="k2", revoked_at=SECONDS - 1), replace(key, id="k2", expires_at=SECONDS - 1)):
        one_more = keyed(replace(full, keys={**full.keys, "k1": later, "k2": ended}))
        assert one_more.keys.keys() == full.keys.keys() - {"k2"} | {"a"}
        two_more = keyed(one_more, "b")
        assert two_more.keys.keys() == full.keys.keys() - {"k1", "k2"} | {"a", "b"}
        with pytest.raises(Conflict, match="100 keys that are good"):
            keyed(two_more, "c")


# What is said of it.


def test_a_day_above_the_month_and_a_raise_below_the_budget_are_said() -> None:
    def warnings(config: Config) -> list[str]:
        return changes.warnings_of(config, config.tenant(DEFAULT), NOW)

    assert warnings(PLAIN) == []
    assert warnings(changed(daily=10**12)) == ["daily is above monthly, so a month's budget can be spent in a day"]
    low = raised(Raise(1, 2, SECONDS + 60))
    assert warnings(low) == [
        f"raise.{name} is not above {name}, or that is 0, so it changes nothing" for name in ("daily", "monthly")
    ]
    assert warnings(raised(Raise(10**11, None, SECONDS + 60))) == []
    assert changes.warnings_of(low, low.tenant(DEFAULT), NOW + timedelta(hours=1)) == []
