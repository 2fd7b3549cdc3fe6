"""API keys of tenants, and what an owner has set: as values, and through the table."""

import string
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.configs import Config, ConfigError
from farebox.keys import ID_LENGTH, SECRET_LENGTH, ApiKey, Presented, digest, presented, shown, written
from farebox.ledger import KeyCap, Limits
from farebox.rules import Rules
from farebox.tenants import MAX_NAME_LENGTH, Move, Raise, Status, Tenant, windows

SECRET = "s" * SECRET_LENGTH
KEY = ApiKey("k1", digest(SECRET), "for the shop", created_at=1000)
DEFAULT = Tenant("acme", Limits(10, 100, 0), "Asia/Tokyo", Rules(in_flight=7))
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)

names = st.from_regex(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME_LENGTH - 1}}}", fullmatch=True)
ids = st.text(string.ascii_lowercase + string.digits, min_size=ID_LENGTH, max_size=ID_LENGTH)
secrets = st.text(string.ascii_letters + string.digits + "-_", min_size=SECRET_LENGTH, max_size=SECRET_LENGTH)


# Keys.


@given(names, ids, secrets)
def test_a_key_is_read_as_it_was_written_whatever_the_tenant_is_called(tenant: str, id_: str, secret: str) -> None:
    key = written(tenant, id_, secret)
    assert presented(key) == Presented(tenant, id_, secret)
    assert key.startswith(shown(tenant, id_))
    assert secret not in shown(tenant, id_)


@given(st.text(max_size=150))
def test_whatever_else_is_sent_is_no_key(text: str) -> None:
    assert presented(text) is None


@pytest.mark.parametrize("broken", [
    "fb-acme.k1", f"acme.k1.{SECRET}", f"fb-.k1.{SECRET}", f"fb-acme.K1.{SECRET}", f"fb-acme.k1.{SECRET}s",
    f"fb-acme.k1.{SECRET[1:]}", f"fb-a b.k1.{SECRET}",
])  # fmt: skip
def test_a_key_with_a_part_missing_or_wrong_is_none(broken: str) -> None:
    assert presented(broken) is None


def test_only_its_own_secret_opens_a_key_and_the_secret_is_not_kept() -> None:
    assert KEY.has(SECRET)
    assert not KEY.has(SECRET[:-1] + "t")
    assert SECRET not in str(KEY)


def test_a_key_is_good_until_the_second_it_expires_or_once_it_is_revoked_never() -> None:
    assert KEY.is_good(10**12)
    expiring = replace(KEY, expires_at=2000)
    assert expiring.is_good(1999)
    assert not expiring.is_good(2000)
    assert not replace(KEY, revoked_at=1).is_good(0)


# Configurations.


def test_a_configuration_comes_back_from_the_table_as_it_was() -> None:
    full = Config(
        "acme",
        7,
        1,
        2,
        "Asia/Kathmandu",
        Move("UTC", "2026-12"),
        {"in_flight": 3, "warn_at": "0.5"},
        Raise(5, None, 99),
        Status.DISABLED,
        {"k1": replace(KEY, expires_at=5, revoked_at=6, month_nanousd=7, feature="f"), "k2": replace(KEY, id="k2")},
        "a note",
        10,
        11,
        12,
    )
    for config in (full, Config("acme", 1), replace(full, raised=Raise(None, 3, 9), move=None)):
        assert Config.of("acme", config.item()) == config


def test_what_an_owner_has_not_set_is_the_defaults() -> None:
    assert Config("acme", 3).tenant(DEFAULT) == replace(DEFAULT, limits=Limits(10, 100, 3, 7))
    set_ = Config("acme", 3, 0, None, "UTC", rules={"in_flight": 2, "degrade_at": "0.95"}, keys={"k1": KEY})
    found = set_.tenant(DEFAULT)
    assert found.limits == Limits(0, 100, 3, 2)
    assert (found.time_zone, found.rules.degrade_at, found.rules.warn_at) == ("UTC", Decimal("0.95"), Decimal("0.8"))
    assert found.keys == {"k1": KEY}


@pytest.mark.parametrize("item", [
    {"version": "x"}, {"status": "gone"}, {"rules": "{"}, {"keys": {"k": {}}}, {"move": {"zone": "UTC"}},
    {"raised": {"day": 1}}, {"keys": 5},
])  # fmt: skip
def test_what_cannot_be_read_says_whose_it_is(item: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="tenant acme"):
        Config.of("acme", {})
    with pytest.raises(ConfigError, match="tenant acme"):
        Config.of("acme", {"version": 1, **item})


def test_rules_that_cannot_be_read_are_a_fault_that_says_whose_they_are() -> None:
    found = Config("acme", 1, 5, rules={"in_flight": 0}).tenant(DEFAULT)
    assert found.fault is not None
    assert "tenant acme" in found.fault
    assert (found.limits.day_nanousd, found.rules) == (5, DEFAULT.rules)
    assert DEFAULT.fault is None


# Raises.


def test_a_raise_lifts_budgets_until_its_end_and_never_lowers_one() -> None:
    tenant = replace(DEFAULT, raised=Raise(50, 60, int(NOON.timestamp())))
    before, after = tenant.at(NOON - timedelta(seconds=1)), tenant.at(NOON)
    assert (before.limits.day_nanousd, before.limits.month_nanousd) == (50, 100)
    assert (after.limits.day_nanousd, after.limits.month_nanousd) == (10, 100)
    of_a_month = replace(DEFAULT, raised=Raise(None, 200, int(NOON.timestamp()))).at(NOON - timedelta(days=1))
    assert (of_a_month.limits.day_nanousd, of_a_month.limits.month_nanousd) == (10, 200)
    assert before.limits.version == after.limits.version


def test_a_key_with_a_cap_brings_it_along_and_one_without_does_not() -> None:
    assert DEFAULT.with_key(replace(KEY, month_nanousd=3)).limits.key_cap == KeyCap("k1", 3, "k1")
    assert DEFAULT.with_key(KEY) is DEFAULT
    successor = replace(KEY, id="k2", counts_as="k1", month_nanousd=3)
    assert DEFAULT.with_key(successor).limits.key_cap == KeyCap("k1", 3, "k2")


def test_a_budget_of_nothing_stays_closed_while_it_is_raised() -> None:
    closed = replace(DEFAULT, limits=Limits(0, 100, 1), raised=Raise(50, 200, int(NOON.timestamp())))
    assert closed.at(NOON - timedelta(days=1)).limits == Limits(0, 200, 1)


# Moves.

ZONES = ("UTC", "Asia/Kathmandu", "America/Los_Angeles", "Pacific/Chatham", "Australia/Lord_Howe", "Pacific/Kiritimati",
         "Pacific/Pago_Pago")  # fmt: skip
zones = st.sampled_from(ZONES)


def moving(old: str, new: str, month: str = "2026-12") -> Tenant:
    return replace(DEFAULT, time_zone=old, move=Move(new, month))


@given(zones, zones, st.integers(-40 * 96, 40 * 96))
def test_while_a_tenant_moves_no_day_comes_twice_and_each_ends_when_it_is_said_to(
    old: str, new: str, quarter: int
) -> None:
    tenant = moving(old, new)
    now = datetime(2026, 12, 1, tzinfo=UTC) + timedelta(minutes=15 * quarter)
    found = tenant.windows(now)
    following = tenant.windows(now + timedelta(minutes=15))
    assert (following.month, following.day) >= (found.month, found.day)
    just_before = tenant.windows(found.day_resets_at - timedelta(seconds=1))
    assert (just_before.month, just_before.day) == (found.month, found.day)
    after = tenant.windows(found.day_resets_at)
    assert (after.month, after.day) > (found.month, found.day)
    assert tenant.windows(found.month_resets_at - timedelta(seconds=1)).month == found.month
    assert tenant.windows(found.month_resets_at).month > found.month


@given(zones, zones)
def test_a_move_is_made_with_its_month_and_not_before(old: str, new: str) -> None:
    tenant = moving(old, new)
    early, late = datetime(2026, 11, 20, tzinfo=UTC), datetime(2026, 12, 5, tzinfo=UTC)
    assert tenant.windows(early) == windows(early, old)
    assert tenant.windows(late) == windows(late, new)
    assert (tenant.at(early).time_zone, tenant.at(late).time_zone) == (old, new)


def test_a_tenant_that_neither_moves_nor_was_raised_is_itself_at_any_moment() -> None:
    assert DEFAULT.at(NOON) is DEFAULT
    assert DEFAULT.windows(NOON) == windows(NOON, "Asia/Tokyo")
