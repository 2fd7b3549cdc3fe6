"""`farebox`, the command line, against a gateway behind a socket: help, tenants, API keys."""

import json
import time
from collections.abc import Iterator

import click
import pytest

from farebox.cli import farebox
from tests.command_line import ADMIN_KEY, MakeSite, Site, run
from tests.conftest import GATEWAY_KEY

# What every command has.


def commands(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """All that can be typed, groups too."""
    yield path
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield from commands(command, (*path, name))


COMMANDS = list(commands(farebox))
LEAVES = [path for path in COMMANDS if path and not any(other[: len(path)] == path != other for other in COMMANDS)]


def test_these_are_the_commands() -> None:
    assert [" ".join(path) for path in LEAVES] == [
        *(f"tenants {name}" for name in ("list", "show", "create", "set", "disable", "enable", "delete")),
        *(f"keys {name}" for name in ("list", "create", "rotate", "revoke")),
        *("usage", "quote", "tail"),
    ]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_needs_no_gateway(path: tuple[str, ...]) -> None:
    for option in ("--help", "-h"):
        ran = run(*path, option, environment={})
        assert (ran.exit_code, ran.stderr) == (0, "")
        assert ran.stdout.startswith(f"Usage: {' '.join(('farebox', *path))} ")


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_help_has_an_example_that_can_be_typed(path: tuple[str, ...]) -> None:
    said = " ".join(run(*path, "--help", environment={}).stdout.split())
    example = said[said.index("Example") :]
    assert f"farebox {' '.join(path)}" in example


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_json_is_everywhere(path: tuple[str, ...]) -> None:
    assert "--json" in run(*path, "--help", environment={}).stdout


def day_from_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 86_400))


# Tenants.


def test_a_tenant_is_made_changed_closed_opened_and_deleted(site: Site) -> None:
    made = site.json("tenants", "create", "acme", "--daily", "2.50", "--note", "a shop", "--deny", "*-pro")
    assert (made["version"], made["effective"]["daily"], made["configured"]["deny"]) == (1, 2.5, ["*-pro"])
    assert site.chat().status_code == 200
    changed = site.json("tenants", "set", "acme", "--daily", "0", "--unset", "deny")
    assert (changed["version"], changed["effective"]["daily"], changed["effective"]["deny"]) == (2, 0, [])
    assert site.chat().json()["error"]["metadata"]["reason"] == "budget_exhausted"
    site.ok("tenants", "set", "acme", "--unset", "--daily")
    assert site.json("tenants", "show", "acme")["set_by"]["daily"] == "default"
    assert site.json("tenants", "disable", "acme")["status"] == "disabled"
    assert site.chat().json()["error"]["metadata"]["reason"] == "tenant_closed"
    assert site.json("tenants", "enable", "acme")["status"] == "active"
    assert site.chat().status_code == 200
    deleted = site.json("tenants", "delete", "acme", "--grace-days", "3", "--yes")
    assert (deleted["status"], deleted["purge_at"] is None) == ("deleted", False)
    assert "until then it can be brought back" in site.ok("tenants", "show", "acme")
    assert site.json("tenants", "enable", "acme")["status"] == "active"


def test_every_option_of_a_tenant_reaches_it(site: Site) -> None:
    given = {
        "daily": "5", "monthly": "50.000000001", "time-zone": "Europe/Berlin", "note": "mine", "per-request": "0.5",
        "in-flight": "20", "warn-at": "0.7", "degrade-at": "0.9", "allow": "sim/*", "deny": "sim/dear",
        "downgrade": "sim/cent=sim/ok", "fallback": "sim/ok", "server-tools": "0.05",
    }  # fmt: skip
    found = site.json(
        "tenants", "create", "acme", *(f"--{name}={value}" for name, value in given.items()), "--no-media"
    )
    assert found["effective"] == {
        "daily": 5, "monthly": 50.000000001, "time_zone": "Europe/Berlin", "per_request": 0.5, "in_flight": 20,
        "warn_at": 0.7, "degrade_at": 0.9, "allow": ["sim/*"], "deny": ["sim/dear"],
        "downgrade": [{"from": ["sim/cent"], "to": "sim/ok"}], "fallback": ["sim/ok"], "server_tools": 0.05,
        "media": False,
    }  # fmt: skip
    assert found["note"] == "mine"
    shown = [line.rstrip() for line in site.ok("tenants", "show", "acme").splitlines()]
    assert "monthly       50.000000001  (tenant)" in shown
    assert "downgrade     sim/cent=sim/ok  (tenant)" in shown
    assert run("tenants", "set", "acme", "--help", environment={}).stdout.count("--") >= len(given)


def test_a_raise_has_an_end_and_can_be_ended(site: Site) -> None:
    site.ok("tenants", "create", "acme", "--daily", "1")
    until = day_from_now()
    raised = site.json("tenants", "set", "acme", "--raise-daily", "3", "--raise-monthly", "400", "--until", until)
    assert (raised["raise"], raised["effective"]["daily"]) == ({"daily": 3, "monthly": 400, "until": until}, 3)
    assert f"raised until  {until}" in site.ok("tenants", "show", "acme")
    assert site.json("tenants", "set", "acme", "--no-raise")["effective"]["daily"] == 1


def test_a_change_of_a_version_that_is_old_is_not_made(site: Site) -> None:
    site.ok("tenants", "create", "acme")
    site.ok("tenants", "set", "acme", "--daily", "2", "--version", "1")
    late = site.run("tenants", "set", "acme", "--daily", "3", "--version", "1")
    assert (late.exit_code, late.stdout) == (1, "")
    assert late.stderr.endswith("(stale_version)\n")


def test_what_is_allowed_and_perhaps_not_meant_is_said_beside_the_answer(site: Site) -> None:
    ran = site.run("tenants", "create", "acme", "--daily", "9", "--monthly", "1", "--json")
    assert json.loads(ran.stdout)["name"] == "acme"
    assert ran.stderr == "farebox: daily is above monthly, so a month's budget can be spent in a day\n"


def test_a_time_zone_to_come_is_shown(site: Site) -> None:
    site.ok("tenants", "create", "acme")
    assert "next time_zone  Asia/Kathmandu, from " in site.ok("tenants", "set", "acme", "--time-zone", "Asia/Kathmandu")


def test_all_tenants_are_listed_page_by_page(make_site: MakeSite) -> None:
    names = [f"t{number:03}" for number in range(503)]
    site = make_site(TENANT_BUDGETS=json.dumps({name: {"daily": 1} for name in names}))
    assert [each["name"] for each in site.json("tenants", "list")["data"]] == ["default", *names]
    lines = site.ok("tenants", "list").splitlines()
    assert (len(lines), lines[0].split()) == (505, ["tenant", "status", "daily", "monthly", "keys", "source"])
    assert lines[2].split() == ["t000", "active", "1", "100", "0", "settings"]


def test_a_tenant_is_not_deleted_before_somebody_has_said_yes(site: Site) -> None:
    site.ok("tenants", "create", "acme")
    for answered in ("n\n", ""):
        ran = site.run("tenants", "delete", "acme", stdin=answered)
        assert (ran.exit_code, ran.stdout.strip()) == (1, answered.strip())
        assert "Refuse all calls of acme from now on?" in ran.stderr
    assert site.json("tenants", "show", "acme")["status"] == "active"
    assert site.run("tenants", "delete", "acme", stdin="y\n").exit_code == 0
    assert site.json("tenants", "show", "acme")["status"] == "deleted"


# Keys.


def test_a_key_is_all_that_its_making_prints(site: Site) -> None:
    site.ok("tenants", "create", "acme")
    ran = site.run("keys", "create", "acme", "--name", "web", "--monthly", "1", "--feature", "search")
    key = ran.stdout.removesuffix("\n")
    assert key.split() == [key]
    assert site.chat(key=key).status_code == 200
    listed = site.json("keys", "list", "acme")["data"][0]
    assert (listed["name"], listed["monthly"], listed["feature"]) == ("web", 1, "search")
    assert ran.stderr == f"farebox: key {listed['id']} of tenant acme; it is shown this once\n"


def test_only_making_and_rotating_print_a_secret(site: Site) -> None:
    site.ok("tenants", "create", "acme")
    secrets = [site.ok("keys", "create", "acme").strip().rpartition(".")[2]]
    first = site.json("keys", "list", "acme")["data"][0]["id"]
    secrets.append(site.ok("keys", "rotate", "acme", first).strip().rpartition(".")[2])
    printed = ""
    for arguments in (
        ("keys", "list", "acme"), ("tenants", "show", "acme"), ("tenants", "list"), ("keys", "revoke", "acme", first),
    ):  # fmt: skip
        for form in ((), ("--json",)):
            ran = site.run(*arguments, *form)
            assert ran.exit_code == 0
            printed += ran.stdout + ran.stderr
    assert first in printed
    assert [secret for secret in [*secrets, ADMIN_KEY, GATEWAY_KEY] if secret in printed] == []


def test_a_rotated_key_goes_on_for_its_overlap_and_a_revoked_one_does_not(site: Site) -> None:
    site.ok("tenants", "create", "acme")
    old = site.ok("keys", "create", "acme", "--expires", day_from_now()).strip()
    id_ = site.json("keys", "list", "acme")["data"][0]["id"]
    ran = site.run("keys", "rotate", "acme", id_, "--overlap-hours", "2")
    new = ran.stdout.strip()
    assert f"farebox: {id_} is good for 2 hours yet" in ran.stderr
    assert [site.chat(key=key).status_code for key in (old, new)] == [200, 200]
    assert site.json("keys", "revoke", "acme", id_)["status"] == "revoked"
    assert [site.chat(key=key).status_code for key in (old, new)] == [401, 200]
    states = {line.split()[0]: line.split()[2] for line in site.ok("keys", "list", "acme").splitlines()}
    assert states == {"id": "status", new.split(".")[1]: "good", id_: "revoked"}


def test_who_repeats_a_creation_has_one_key(site: Site) -> None:
    site.ok("tenants", "create", "acme")
    first, again = (site.json("keys", "create", "acme", "--once", "deploy-7") for _ in range(2))
    assert first["id"] == again["id"]
    assert first["key"] != again["key"]
    assert len(site.json("keys", "list", "acme")["data"]) == 1
