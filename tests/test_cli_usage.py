"""`farebox usage`, `farebox quote` and `farebox tail` against a gateway behind a socket."""

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

from farebox import cli_shown
from farebox.hours import hour_of
from farebox.spans import partition
from local.sockets import Cut, HttpRequest, HttpResponse, Server
from tests.command_line import ADMIN_KEY, CENT, MakeSite, Site, Watcher, run
from tests.conftest import chat_body

# Usage.


def test_the_month_so_far_has_both_windows_and_a_bar_a_day(site: Site) -> None:
    assert "state" in site.ok("usage", "acme")
    site.chat(max_tokens=20)
    spent = site.door.usage("acme")["monthly"]["spent_usd"]
    lines = site.ok("usage", "acme").splitlines()
    exact = f"{spent:.12f}".rstrip("0")
    assert next(line for line in lines if line.startswith("monthly")).split()[1:5] == [exact, "of", "100", "USD,"]
    assert lines[-1].split()[1:] == [exact, "#" * cli_shown.BAR_WIDTH]
    found = site.json("usage", "acme")
    assert (found["tenant"], found["monthly"]["spent_usd"], len(found["days"])) == ("acme", spent, 1)


def test_rows_by_group_and_interval_sum_to_what_was_spent(site: Site) -> None:
    for model in ("sim/ok", CENT, CENT):
        site.chat(model=model, max_tokens=20)
    spent = site.door.usage("acme")["monthly"]["spent_usd"]
    found = site.json("usage", "acme", "--group-by", "model")
    assert found["interval"] == "all"
    assert [row["calls"] for row in found["rows"]] == [2, 1]
    assert sum(round(row["cost_usd"] * 1e9) for row in found["rows"]) == round(spent * 1e9)
    for arguments in (
        ("--interval", "hour"),
        ("--group-by", "feature", "--interval", "month"),
        ("--from", time.strftime("%Y-01", time.gmtime())),
    ):
        assert site.json("usage", "acme", *arguments)["rows"]
        assert site.ok("usage", "acme", *arguments).splitlines()[1:]
    assert site.json("usage", "acme", "--from", time.strftime("%Y-%m", time.gmtime()))["interval"] == "day"
    table = site.ok("usage", "acme", "--group-by", "model").splitlines()
    assert table[0].split() == ["model", "calls", "tokens", "USD"]
    assert table[1].endswith("#" * cli_shown.BAR_WIDTH)
    assert table[1].split()[0] == CENT


def test_usage_as_csv_has_exact_amounts(site: Site) -> None:
    site.chat(max_tokens=20)
    lines = list(csv.DictReader(io.StringIO(site.ok("usage", "acme", "--csv"))))
    assert len(lines) == 1
    assert "e" not in lines[0]["cost_usd"]
    assert float(lines[0]["cost_usd"]) == site.door.usage("acme")["monthly"]["spent_usd"]


def test_without_a_tenant_all_of_them_are_told(site: Site) -> None:
    for tenant in ("acme", "zoo"):
        site.chat(tenant)
    found = site.json("usage")
    assert [each["tenant"] for each in found["data"]] == ["acme", "zoo"]
    assert list(found) == ["month", "data"]
    lines = site.ok("usage").splitlines()
    assert [line.split()[0] for line in lines] == ["tenant", "acme", "zoo"]
    assert site.json("usage", "--month", found["month"]) == found
    assert [line.split(",")[0] for line in site.ok("usage", "--csv").splitlines()] == ["tenant", "acme", "zoo"]


def test_pages_of_all_tenants_are_one_list_with_one_header() -> None:
    """Of a gateway with a page for each tenant."""
    targets = []

    def handle(request: HttpRequest) -> HttpResponse:
        targets.append(request.target)
        tenant = "b" if "after=a" in request.target else "a"
        following = () if tenant == "b" else (("X-Farebox-Next", tenant),)
        if request.header("accept") == "text/csv":
            return HttpResponse(200, following, (f"tenant,month\r\n{tenant},2026-11\r\n".encode(),))
        page = {"month": "2026-11", "data": [{"tenant": tenant}], "next": None if tenant == "b" else "a"}
        return HttpResponse(200, (), (json.dumps(page).encode(),))

    with Server(handle) as server:
        environment = {"FAREBOX_URL": server.url, "FAREBOX_ADMIN_KEY": "k"}
        assert json.loads(run("usage", "--json", environment=environment).stdout) == {
            "month": "2026-11", "data": [{"tenant": "a"}, {"tenant": "b"}],
        }  # fmt: skip
        assert run("usage", "--csv", environment=environment).stdout.split() == [
            "tenant,month",
            "a,2026-11",
            "b,2026-11",
        ]
    assert [target.partition("?")[2] for target in targets] == ["limit=500", "limit=500&after=a"] * 2


def test_a_tenant_s_own_key_reads_its_usage_and_no_other_s(site: Site) -> None:
    site.ok("tenants", "create", "acme")
    mine = site.ok("keys", "create", "acme").strip()
    tenants = {"FAREBOX_URL": site.url, "FAREBOX_GATEWAY_KEY": mine}
    assert run("usage", "acme", environment=tenants).exit_code == 0
    other = run("usage", "zoo", environment=tenants)
    assert (other.exit_code, other.stderr.endswith("(key_mismatch)\n")) == (1, True)


# Quotes.


def test_a_quote_says_what_would_happen_and_what_it_could_cost(site: Site) -> None:
    found = site.json("quote", "sim/ok", "Say hello", "--max-tokens", "100", "--tenant", "acme", "--feature", "search")
    assert (found["outcome"], found["max_tokens"], found["tenant"], found["feature"]) == (
        "as_asked", 100, "acme", "search",
    )  # fmt: skip
    lines = [line.split() for line in site.ok("quote", "sim/ok", "Say hello", "--max-tokens", "100").splitlines()]
    assert lines[0] == ["outcome", "as_asked"]
    held = next(line[1] for line in lines if line[:1] == ["held"])
    assert float(held) == found["hold_usd"]
    assert lines[-1] == ["sim/ok", "asked", held]
    assert site.door.usage("acme")["monthly"]["spent_usd"] == 0


def test_a_quote_takes_a_whole_request_from_a_file_or_from_stdin(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_bytes(chat_body(None, max_tokens=7))
    assert site.json("quote", "--body", str(file))["max_tokens"] == 7
    assert site.json("quote", "--body", "-", stdin=chat_body(None, max_tokens=8))["max_tokens"] == 8


def test_a_quote_of_what_would_be_refused_says_why(make_site: MakeSite) -> None:
    site = make_site(DEFAULT_DAILY_BUDGET="0.0000001")
    said = site.ok("quote", CENT, "Say hello")
    assert "refused" in said
    assert "budget_exhausted" in said


# The last calls.


def test_tail_shows_the_last_calls_and_then_each_as_it_ends_once(site: Site) -> None:
    site.chat("old")
    for number in range(3):
        site.chat(f"before-{number}")
    watcher = Watcher(lambda: site.chat("first"), lambda: None, lambda: [site.chat("second"), site.chat("third")])
    lines = site.ok("tail", "--lines", "3", "--every", "0.5", clock=watcher.clock).splitlines()
    tenants = [line.split()[1] for line in lines]
    assert sorted(tenants[:3]) == ["before-0", "before-1", "before-2"]
    assert tenants[3] == "first"
    assert sorted(tenants[4:]) == ["second", "third"]
    assert watcher.slept == [0.5] * 4
    assert " USD  " in lines[0]
    assert " tokens  " in lines[0]


def test_tail_can_be_of_one_tenant_and_end_by_itself(site: Site) -> None:
    for tenant in ("acme", "zoo"):
        site.chat(tenant)
    said = site.ok("tail", "--once", "--tenant", "zoo", "--json").splitlines()
    assert [json.loads(line)["tenant"] for line in said] == ["zoo"]
    assert json.loads(said[0])["cost_usd"] == site.door.usage("zoo")["monthly"]["spent_usd"]
    assert "Say hello" not in said[0]
    assert site.ok("tail", "--once", "--lines", "0") == ""


def test_tail_shows_a_call_again_when_its_cost_is_found_out(site: Site) -> None:
    at = int(time.time()) - 60
    pk, id_ = partition(hour_of(at), 0), f"{at * 1000:011x}{0:010x}"
    lost = {
        "tenant": "acme",
        "feature": "default",
        "model": "sim/cut",
        "outcome": "lost",
        "admitted_at": at,
        "cause": "cut",
    }
    store = site.door.gate.store
    store.put_span(pk, id_, lost)

    def resolve() -> object:
        return store.resolve_span(pk, id_, 13_050, is_estimated=True, known={"tenant": "acme"})

    lines = site.ok("tail", clock=Watcher(lambda: None, resolve, lambda: None).clock).splitlines()
    assert [line.split("  ", 3)[3] for line in lines] == [
        "cost not known (lost)  cut", "0.00001305 USD (estimated)  cut",
    ]  # fmt: skip


def test_tail_says_that_the_gateway_is_away_and_goes_on() -> None:
    span = {
        "id": "a", "admitted_at": "2026-11-24T10:04:30Z", "tenant": "acme", "model": "sim/ok", "cost_usd": 0.5,
        "estimated": False, "prompt_tokens": None, "completion_tokens": None, "latency_ms": None, "cause": None,
    }  # fmt: skip
    pages: list[dict[str, Any] | None] = [{"data": [], "more": True}, None, {"data": [span], "more": False}]

    def handle(request: HttpRequest) -> HttpResponse:
        assert request.target.startswith("/api/admin/spans?since=")
        if (page := pages.pop(0)) is None:
            raise Cut
        return HttpResponse(200, (), (json.dumps(page).encode(),))

    with Server(handle) as server:
        environment = {"FAREBOX_URL": server.url, "FAREBOX_ADMIN_KEY": ADMIN_KEY}
        ran = run("tail", environment=environment, clock=Watcher(lambda: None, lambda: None).clock)
    assert (ran.exit_code, ran.stdout) == (0, "10:04:30  acme  sim/ok  0.5 USD\n")
    lines = ran.stderr.splitlines()
    assert lines[0] == "farebox: more calls than can be looked through; some may be left out"
    assert lines[1].startswith(f"farebox: the gateway at {server.url}/api cannot be reached: ")
    assert len(lines) == 2
