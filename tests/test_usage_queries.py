"""GET /api/usage and /api/usage/{tenant}, through the gate: who may read what, and that a call shows up at once."""

import csv
import io
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from farebox import readings
from farebox.aws import to_dynamodb
from farebox.configs import Config
from farebox.fold import Folder, fold
from farebox.hours import hour_of
from farebox.keys import SECRET_LENGTH, ApiKey, digest, written
from farebox.ledger import Hold, Ledger, Limits
from farebox.spans import SHARDS
from farebox.tenants import Move, Raise, Status
from tests.conftest import GATEWAY_KEY, Answered, Door, MakeDoor, connected

NOON = datetime(2026, 11, 24, 12, 20, tzinfo=UTC)
ADMIN = {"Authorization": "Bearer local-admin-key"}
SECRET = "s" * SECRET_LENGTH
KEY = {"Authorization": f"Bearer {written('acme', 'k1', SECRET)}"}
ACME = Config("acme", 1, 10**10, 10**11, keys={"k1": ApiKey("k1", digest(SECRET), "for the shop", created_at=1000)})
CSV = {"Accept": "text/csv"}
AMPLE = Limits(10**16, 10**16, 0)


@dataclass(slots=True)
class Office:
    """A gate on a clock that the test sets."""

    door: Door
    url: str
    at: datetime = NOON

    def get(self, target: str, headers: dict[str, str] | None = None) -> Answered:
        return self.door.call("GET", f"/api/usage{target}", headers=headers)

    def rows(self, target: str) -> Any:
        answered = self.get(target)
        assert answered.status == 200, answered.body
        return answered.json["rows"]

    def configure(self, config: Config) -> None:
        item = {"pk": f"TENANT#{config.name}", "sk": "CONFIG", **config.item()}
        client, table = connected(self.url), self.door.gate.settings.farebox_table
        client.put_item(TableName=table, Item=to_dynamodb(item))
        self.door.gate.desk.directory.forget(config.name)

    def spend(self, tenant: str, nanousd: int, day: int = 23, month: str = "2026-11") -> None:
        """Without a span: for what is told of ledgers."""
        store, at = self.door.gate.store, int(self.at.timestamp())
        store.register(tenant, month)
        hold = Hold(secrets.token_hex(8), nanousd, day, at, at + 960, "sim/ok")
        assert isinstance(store.reserve(tenant, month, hold, AMPLE), Ledger)
        store.settle(tenant, month, hold, nanousd)

    def begin(self) -> None:
        """Rollups are up to now; the very first fold would go two days back."""
        self.door.gate.rollups.move(hour_of(int(self.at.timestamp()) - 3600))

    def fold(self) -> None:
        gate = self.door.gate
        folder = Folder(gate.store, gate.rollups, gate.telemetry, gate.now, lambda: secrets.token_hex(4))
        fold(folder, lambda: True)


MakeOffice = Callable[..., Office]


@pytest.fixture
def make_office(make_door: MakeDoor, embedded_url: str) -> MakeOffice:
    def make(store_url: str = embedded_url, **settings: str) -> Office:
        office = Office(make_door(store_url=store_url, **settings), store_url)
        gate = office.door.gate
        office.door = Door(replace(gate, now=lambda: office.at, desk=replace(gate.desk, now=lambda: office.at)))
        return office

    return make


@pytest.fixture
def office(make_office: MakeOffice) -> Office:
    return make_office()


def parsed(answered: Answered) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(answered.body.decode(), newline="")))


# One tenant: rows.


def test_a_call_is_in_the_rows_at_once_and_the_same_once_it_is_folded(make_office: MakeOffice, store_url: str) -> None:
    office = make_office(store_url)
    office.begin()
    answered = [office.door.chat(headers={"X-Feature": feature}) for feature in ("search", "chat", "search")]
    cost = sum(float(each.headers["X-Farebox-Cost-Usd"]) for each in answered)
    for _ in range(2):
        report = office.get("/default?group_by=feature&interval=day").json
        assert [(row["start"], row["group"], row["calls"]) for row in report.pop("rows")] == [
            ("2026-11-24", "search", 2), ("2026-11-24", "chat", 1),
        ]  # fmt: skip
        assert report == {
            "tenant": "default", "time_zone": "UTC", "from": "2026-11-01", "to": "2026-11-24", "interval": "day",
            "group_by": "feature", "complete_until": "2026-11-24T12:20:00Z",
        }  # fmt: skip
        (row,) = office.rows("/default?interval=all")
        assert (row["start"], row["group"], row["calls"], row["estimated_usd"]) == ("2026-11-01", None, 3, 0)
        spent = office.get("/default").json["monthly"]["spent_usd"]
        assert row["cost_usd"] == spent == pytest.approx(cost, abs=1e-12)
        assert row["prompt_tokens"] > 0 < row["completion_tokens"]
        office.fold()


@pytest.mark.parametrize("group_by", ["feature", "provider", "model", "key"])
def test_rows_of_every_group_come_to_the_same_sum(group_by: str, office: Office) -> None:
    office.begin()
    office.configure(ACME)
    office.door.chat(headers=KEY)
    office.door.chat(headers={"X-Tenant-Id": "acme", "X-Feature": "search"}, model="sim/cent", max_tokens=20)
    (total,) = office.rows("/acme?interval=all")
    rows = office.rows(f"/acme?group_by={group_by}")
    assert len(rows) == len({row["group"] for row in rows}) > (1 if group_by != "provider" else 0)
    assert sum(row["cost_usd"] for row in rows) == pytest.approx(total["cost_usd"], abs=1e-12)
    assert sum(row["calls"] for row in rows) == total["calls"] == 2


def test_what_is_kept_of_a_tenant_s_zone_decides_which_day_a_call_is_of(make_office: MakeOffice) -> None:
    office = make_office(FAREBOX_TIME_ZONE="Asia/Kathmandu")
    office.at = datetime(2026, 11, 23, 18, 30, tzinfo=UTC)
    office.begin()
    office.door.chat()
    assert [row["start"] for row in office.rows("/default?interval=day")] == ["2026-11-24"]
    assert [row["start"] for row in office.rows("/default?interval=hour")] == ["2026-11-24T00:00:00+05:45"]
    assert office.rows("/default?from=2026-11-23&to=2026-11-23") == []


def test_rollups_that_have_not_run_for_hours_are_told_of(office: Office) -> None:
    office.begin()
    office.door.chat()
    office.at += timedelta(hours=9)
    answered = office.get("/default", CSV)
    assert office.get("/default?interval=day").json["complete_until"] == "2026-11-24T11:00:00Z"
    assert answered.headers["X-Farebox-Complete-Until"] == "2026-11-24T11:00:00Z"


def test_of_more_calls_than_are_read_it_is_told_until_when_they_are_all_there_and_the_rest_once_it_is_folded(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readings, "MAX_PAGES", SHARDS)  # of the hour before
    office.begin()
    office.door.chat()
    for calls in (0, 1):
        assert sum(row["calls"] for row in office.rows("/default?interval=day")) == calls
        assert office.get("/default?interval=day").json["complete_until"] == "2026-11-24T12:00:00Z"
        assert office.get("/default", CSV).headers["X-Farebox-Complete-Until"] == "2026-11-24T12:00:00Z"
        office.fold()


@pytest.mark.parametrize("query", [
    "form=1", "from=2026-11-25&to=2026-11-24", "from=2024-11&to=2026-11", "from=now", "interval=hour&from=2026-10",
    "group_by=tenant", "from=2026-11-01&from=2026-11-02",
])  # fmt: skip
def test_a_query_that_cannot_be_answered_is_malformed(query: str, office: Office) -> None:
    refused = office.get(f"/default?{query}")
    assert (refused.status, refused.reason) == (400, "malformed")


# One tenant: CSV.


def test_rows_come_as_a_file_with_exact_amounts_where_csv_is_accepted(office: Office) -> None:
    office.begin()
    cost = office.door.chat().headers["X-Farebox-Cost-Usd"]
    answered = office.get("/default?interval=day", {"Accept": "application/json;q=0.5, Text/CSV; charset=utf-8"})
    assert answered.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answered.headers["Content-Disposition"] == 'attachment; filename="usage-default-2026-11-01-2026-11-24.csv"'
    (row,) = parsed(answered)
    assert (row["start"], row["group"], row["calls"], row["cost_usd"]) == ("2026-11-24", "", "1", cost)


def test_a_name_that_upstream_made_up_is_no_formula_in_the_file(office: Office) -> None:
    office.begin()
    span = {
        "tenant": "acme",
        "month": "2026-11",
        "day": 24,
        "feature": "f",
        "model": "=HYPERLINK(1)",
        "cost_nanousd": 1,
    }
    office.door.gate.store.put_span("SPANS#2026-11-24T12#0", "h", span)
    assert [row["group"] for row in parsed(office.get("/acme?group_by=model", CSV))] == ["'=HYPERLINK(1)"]
    assert [row["group"] for row in office.rows("/acme?group_by=model")] == ["=HYPERLINK(1)"]


# One tenant: the month so far.


def test_the_month_so_far_has_a_forecast_from_its_second_day_on(office: Office) -> None:
    office.spend("acme", 70 * 10**9, day=18)
    assert office.get("/acme").json["forecast"] == {
        "spent_usd": 134.861111111, "mean_day_usd": 10.0, "of_days": 7, "limit_reached_on": "2026-11-27",
    }  # fmt: skip
    office.at = datetime(2026, 11, 1, 12, tzinfo=UTC)
    assert office.get("/acme").json["forecast"] is None


def test_what_is_not_as_usual_is_told_and_nothing_else(office: Office) -> None:
    names = {"status", "raised_until", "time_zone_next", "time_zone_from"}
    assert not names & office.get("/acme").json.keys()
    until = int(datetime(2026, 11, 25, tzinfo=UTC).timestamp())
    closed = replace(
        ACME, status=Status.DISABLED, raised=Raise(None, 2 * 10**11, until), move=Move("Asia/Kathmandu", "2026-12")
    )
    office.configure(closed)
    report = office.get("/acme").json
    assert {name: report.get(name) for name in names} == {
        "status": "disabled", "raised_until": "2026-11-25T00:00:00Z", "time_zone_next": "Asia/Kathmandu",
        "time_zone_from": "2026-12-01",
    }  # fmt: skip
    assert (report["time_zone"], report["monthly"]["limit_usd"]) == ("UTC", 200)
    office.at = datetime(2026, 12, 1, 12, tzinfo=UTC)
    report = office.get("/acme").json
    assert names & report.keys() == {"status"}
    assert (report["time_zone"], report["monthly"]["limit_usd"]) == ("Asia/Kathmandu", 100)


# One tenant: who reads it.


@pytest.mark.parametrize("target", ["", "?interval=day"])
def test_the_gateway_s_and_the_admin_s_key_read_all_and_a_tenant_s_key_its_own(target: str, office: Office) -> None:
    office.configure(ACME)
    for headers in ({}, ADMIN, KEY, {**KEY, **CSV}):
        assert office.get(f"/acme{target}", headers).status == 200
    for headers in ({}, ADMIN):
        assert office.get(f"/default{target}", headers).status == 200
    refused = office.get(f"/default{target}", KEY)
    assert (refused.status, refused.reason) == (403, "key_mismatch")


# All tenants.


def test_all_tenants_that_have_called_are_told_of_with_their_windows_and_forecast(
    make_office: MakeOffice, store_url: str
) -> None:
    office = make_office(store_url)
    office.configure(replace(ACME, status=Status.DISABLED, month_nanousd=10**10))
    office.spend("acme", 9 * 10**9, day=23)
    office.spend("acme", 10**9, day=24)
    office.door.chat(headers={"X-Tenant-Id": "beta"})
    office.spend("old", 1, month="2026-10")
    acme, beta = office.get("", ADMIN).json["data"]
    assert (acme["tenant"], acme["status"], acme["state"]) == ("acme", "disabled", "stopped")
    assert acme["daily"] == {
        "limit_usd": 10, "spent_usd": 1, "held_usd": 0, "remaining_usd": 9, "resets_at": "2026-11-25T00:00:00Z",
    }  # fmt: skip
    assert (acme["monthly"]["spent_usd"], acme["monthly"]["limit_usd"]) == (10, 10)
    assert acme["forecast"]["limit_reached_on"] == "2026-11-24"
    assert (beta["tenant"], beta["status"], beta["state"], beta["monthly"]["limit_usd"]) == (
        "beta", "active", "active", 100,
    )  # fmt: skip
    report = office.get("/beta").json
    assert beta == {name: report[name] for name in beta.keys() - {"status"}} | {"status": "active"}


def test_a_month_before_has_its_ledgers_and_no_day(office: Office) -> None:
    office.spend("acme", 85 * 10**9, month="2026-10")
    answered = office.get("?month=2026-10", ADMIN).json
    assert (answered["month"], answered["next"]) == ("2026-10", None)
    assert answered["data"] == [{
        "tenant": "acme", "month": "2026-10", "status": "active", "state": "warned", "in_flight": 0, "daily": None,
        "monthly": {"limit_usd": 100, "spent_usd": 85, "held_usd": 0, "remaining_usd": 15}, "forecast": None,
    }]  # fmt: skip
    assert office.get("", ADMIN).json["data"] == []


def test_a_tenant_whose_month_is_another_one_by_now_is_told_of_without_a_day(office: Office) -> None:
    office.configure(replace(ACME, time_zone="Pacific/Chatham"))
    office.at = datetime(2026, 11, 30, 12, tzinfo=UTC)
    office.spend("acme", 1)
    office.spend("beta", 1)
    assert [each["daily"] is None for each in office.get("", ADMIN).json["data"]] == [True, False]


@pytest.mark.parametrize("limit", [7, 59, 60, 61])
def test_pages_have_every_tenant_once_and_in_order(limit: int, office: Office) -> None:
    names = sorted(f"t{number}" for number in range(60))
    for name in names:
        office.door.gate.store.register(name, "2026-11")
    seen: list[str] = []
    after = ""
    while True:
        answered = office.get(f"?limit={limit}{after}", ADMIN).json
        assert len(answered["data"]) <= limit
        seen += [each["tenant"] for each in answered["data"]]
        if answered["next"] is None:
            break
        after = f"&after={answered['next']}"
    assert seen == names


def test_all_tenants_come_as_a_file_and_where_it_goes_on_is_in_a_header(office: Office) -> None:
    for tenant in ("acme", "beta"):
        office.spend(tenant, 13_050)
    answered = office.get("?limit=1", {**ADMIN, **CSV})
    assert answered.headers["Content-Disposition"] == 'attachment; filename="usage-2026-11.csv"'
    assert answered.headers["X-Farebox-Next"] == "acme"
    (row,) = parsed(answered)
    assert row == {
        "tenant": "acme", "month": "2026-11", "status": "active", "state": "active", "in_flight": "0",
        "daily_limit_usd": "10.0", "daily_spent_usd": "0.0", "daily_held_usd": "0.0", "daily_remaining_usd": "10.0",
        "monthly_limit_usd": "100.0", "monthly_spent_usd": "0.00001305", "monthly_held_usd": "0.0",
        "monthly_remaining_usd": "99.99998695", "forecast_spent_usd": "0.000025141", "forecast_limit_reached_on": "",
    }  # fmt: skip
    last = office.get("?limit=1&after=acme&month=2026-11", {**ADMIN, **CSV})
    assert "X-Farebox-Next" not in last.headers
    assert [row["tenant"] for row in parsed(last)] == ["beta"]


@pytest.mark.parametrize(("key", "status", "reason"), [
    (GATEWAY_KEY, 403, "key_mismatch"), (written("acme", "k1", SECRET), 403, "key_mismatch"),
    (written("acme", "k1", "t" * SECRET_LENGTH), 401, "unauthenticated"), ("wrong", 401, "unauthenticated"),
])  # fmt: skip
def test_only_the_admin_s_key_reads_the_list_of_all_tenants(key: str, status: int, reason: str, office: Office) -> None:
    office.configure(ACME)
    refused = office.get("", {"Authorization": f"Bearer {key}"})
    assert (refused.status, refused.reason) == (status, reason)
    assert "acme" not in refused.body.decode()


@pytest.mark.parametrize("query", ["limit=0", "month=2027-01", "after=a%23b", "from=2026-11"])
def test_a_page_that_cannot_be_answered_is_refused(query: str, office: Office) -> None:
    assert office.get(f"?{query}", ADMIN).status == 400
