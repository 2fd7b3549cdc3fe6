"""`farebox` as a program: what goes wrong, what is shown, where a gateway is, how it is installed."""

import os
import pty
import select
import shutil
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from farebox import __main__ as program
from farebox import __version__, cli_shown
from farebox.cli_client import base_of
from farebox.cli_terminal import show
from local.child import ROOT
from local.sockets import HttpResponse, Server
from tests.command_line import PACKAGE, Site, run

# What goes wrong.


NOES = {
    ("tenants", "show", "nobody"): "not_found",
    ("tenants", "show", "a/b?c"): "not_found",
    ("tenants", "show", "default?x=1"): "not_found",
    ("tenants", "create", "a b"): "invalid_tenant",
    ("tenants", "create", "acme", "--daily", "lots"): "malformed",
    ("tenants", "create", "acme", "--daily=-1"): "malformed",
    ("tenants", "create", "acme", "--time-zone", "Mars/Olympus"): "malformed",
    ("tenants", "create", "acme", "--downgrade", "a=b", "--downgrade", "b=a"): "malformed",
    ("keys", "create", "nobody"): "not_found",
    ("keys", "revoke", "default", "k3v9q2mwxd"): "not_found",
    ("usage", "acme", "--from", "yesterday"): "malformed",
    ("quote", "no/such", "hello"): "model_not_priced",
    ("tail", "--once", "--tenant", "a b"): "invalid_tenant",
}


def test_a_no_is_one_sentence_with_its_reason(site: Site) -> None:
    for arguments, reason in NOES.items():
        ran = site.run(*arguments)
        assert (arguments, ran.exit_code, ran.stdout) == (arguments, 1, "")
        assert ran.stderr.startswith("farebox: ")
        assert ran.stderr.endswith(f" ({reason})\n")
        assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tenants", "set", "acme"), "nothing to change"),
        (("tenants", "set", "acme", "--unset", "name"), "--unset takes one of daily, monthly, time-zone, "),
        (("tenants", "create", "acme", "--downgrade", "openai/gpt-4o"), "--downgrade takes FROM=TO"),
        (("usage", "--from", "2026-11-01"), "need a tenant"),
        (("usage", "acme", "--month", "2026-11"), "--month is for all tenants"),
        (("usage", "--csv", "--json"), "do not go together"),
        (("usage", "acme", "--group-by", "day"), "Invalid value"),
        (("quote", "sim/ok"), "quote needs a model and a prompt"),
        (("quote", "sim/ok", "--body", "-"), "--body has the model"),
        (("tail", "--lines", "1001"), "Invalid value"),
        (("keys",), "Usage: farebox keys"),
        (("nothing",), "No such command"),
        (("--local", "--stack", "farebox", "usage"), "do not go together"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value),
)
def test_what_cannot_be_meant_is_not_sent(arguments: tuple[str, ...], said: str) -> None:
    ran = run(*arguments, environment={"FAREBOX_URL": "http://127.0.0.1:1", "FAREBOX_ADMIN_KEY": "k"})
    assert ran.exit_code == 2 or (ran.exit_code, arguments) == (0, ("keys",))
    assert said in ran.stderr + ran.stdout


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "which gateway? Set FAREBOX_URL and FAREBOX_ADMIN_KEY, or say --stack NAME, or --local for `make dev`"),
        ({"FAREBOX_URL": "ai.example.com"}, "FAREBOX_URL must be a base URL like https://ai.example.com/api/v1, not"),
        ({"FAREBOX_URL": "https://openrouter.ai/v2"}, "FAREBOX_URL must be a base URL like"),
        ({"FAREBOX_URL": "http://127.0.0.1:1"}, "this needs a key: set FAREBOX_ADMIN_KEY"),
        ({"FAREBOX_URL": "http://127.0.0.1:1", "FAREBOX_ADMIN_KEY": "schlüssel"}, "must be ASCII"),
    ],
)
def test_a_gateway_that_is_not_known_is_a_wrong_command(environment: dict[str, str], said: str) -> None:
    ran = run("tenants", "list", environment=environment)
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert ran.stderr.startswith("farebox: ")
    assert said in ran.stderr


def test_a_base_url_is_taken_as_applications_have_it() -> None:
    for path in ("", "/", "/api", "/api/", "/api/v1", "/api/v1/"):
        assert base_of(f"https://ai.example.com{path}") == "https://ai.example.com/api"
    assert base_of("https://example.com/ai/api/v1") == "https://example.com/ai/api"


def test_who_cannot_be_reached_ends_it_with_three() -> None:
    with Server(lambda _: HttpResponse(200, (), ())) as server:
        url = server.url
    for arguments in (("tenants", "list"), ("usage",), ("quote", "sim/ok", "hello"), ("tail", "--once")):
        ran = run(*arguments, environment={"FAREBOX_URL": url, "FAREBOX_ADMIN_KEY": "k", "FAREBOX_GATEWAY_KEY": "k"})
        assert (ran.exit_code, ran.stdout) == (3, "")
        assert ran.stderr.startswith(f"farebox: the gateway at {url}/api cannot be reached: ")


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (403, b'{"message":"Forbidden"}', "farebox: Forbidden (status 403)\n"),
        (502, b"<html>Bad gateway</html>", "has answered with status 502, and not as a gateway does\n"),
        (200, b"<html>Welcome</html>", "has answered with status 200, and not as a gateway does\n"),
        (302, b"", "has answered with status 302, and not as a gateway does\n"),
        (500, b"[]", "has answered with status 500, and not as a gateway does\n"),
        (400, b'{"error":{"message":"\\u001b[2J","metadata":{"reason":"x"}}}', "farebox: ?[2J (x)\n"),
    ],
    ids=["API Gateway's", "a proxy's", "another server's", "a redirect", "a list", "a terminal's command"],
)
def test_an_answer_of_somebody_else_is_a_sentence_too(status: int, body: bytes, said: str) -> None:
    with Server(lambda _: HttpResponse(status, (("Content-Length", str(len(body))),), (body,))) as server:
        ran = run("tenants", "list", environment={"FAREBOX_URL": server.url, "FAREBOX_ADMIN_KEY": "k"})
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert ran.stderr.endswith(said)


# What is shown.


def test_the_longest_names_and_amounts_fit_eighty_columns(site: Site) -> None:
    name = "a" * 64
    site.ok("tenants", "create", name, "--daily", "7999999.123456789", "--monthly", "7999999.123456789")
    assert site.run("keys", "create", name, "--name", "n" * 100, "--monthly", "7999999.123456789").exit_code == 0
    site.chat(name, metadata={})
    for arguments in (
        ("tenants", "list"), ("tenants", "show", name), ("keys", "list", name), ("usage",), ("usage", name),
        ("usage", name, "--group-by", "model", "--interval", "hour"), ("quote", "sim/ok", "hi", "--tenant", name),
    ):  # fmt: skip
        said = site.ok(*arguments)  # which looks at the lengths of lines
        assert said.strip(), arguments
    assert "  7999999.123456789  7999999.123456789  " in site.ok("tenants", "list")


def test_what_moves_a_terminal_is_not_shown(site: Site) -> None:
    site.ok("tenants", "create", "acme", "--note", "\x1b[2J[bold]mine[/bold]\x07 :smile:")
    assert "?[2J[bold]mine[/bold]? :smile:" in site.ok("tenants", "show", "acme")
    assert site.json("tenants", "show", "acme")["note"] == "\x1b[2J[bold]mine[/bold]\x07 :smile:"


@pytest.mark.parametrize(
    ("amount", "shown"), [("1.305e-05", "0.00001305"), ("1E+7", "10000000"), ("0.10", "0.1"), ("0E-9", "0")]
)
def test_an_amount_has_all_its_digits(amount: str, shown: str) -> None:
    assert cli_shown.usd(Decimal(amount)) == shown


def test_a_bar_is_seen_however_little_it_is() -> None:
    assert [len(cli_shown.bar(Decimal(part), Decimal(10))) for part in ("0", "0.000001", "5", "10", "-1")] == [
        0, 1, cli_shown.BAR_WIDTH // 2, cli_shown.BAR_WIDTH, 0,
    ]  # fmt: skip
    assert cli_shown.bar(Decimal(0), Decimal(0)) == ""


@pytest.mark.parametrize(
    ("settings", "has_style"), [({}, True), ({"NO_COLOR": "1", "TERM": "dumb"}, False)], ids=["plain", "NO_COLOR"]
)
def test_only_a_terminal_gets_escape_codes(settings: dict[str, str], has_style: bool, site: Site) -> None:  # noqa: FBT001
    reading, writing = pty.openpty()
    try:
        subprocess.run(
            [sys.executable, "-m", "farebox", "tenants", "list"],
            env={**PACKAGE, "TERM": "xterm-256color", **settings, **site.environment},
            stdout=writing,
            check=True,
            timeout=60,
        )
        assert select.select([reading], [], [], 10)[0]
        assert (b"\x1b[" in os.read(reading, 10_000)) is has_style
    finally:
        os.close(reading)
        os.close(writing)


WINDOW = {
    "spent_usd": Decimal("0.5"),
    "held_usd": Decimal(0),
    "limit_usd": Decimal(1),
    "resets_at": "2026-12-01T00:00:00Z",
}
MONTH = {
    "tenant": "acme",
    "month": "2026-11",
    "time_zone": "UTC",
    "state": "active",
    "daily": WINDOW,
    "monthly": WINDOW,
}


@pytest.mark.parametrize(
    ("more", "last"),
    [
        ({"forecast": None}, "monthly  0.5 of 1 USD, 0 held; until 2026-12-01T00:00:00Z"),
        (
            {"forecast": {"spent_usd": Decimal("0.75"), "limit_reached_on": None}, "status": "disabled"},
            "forecast  0.75 USD at the month's end",
        ),
        (
            {"forecast": {"spent_usd": Decimal("1.5"), "limit_reached_on": "2026-11-29"}},
            "forecast  1.5 USD at the month's end; the limit is reached on 2026-11-29",
        ),
    ],
    ids=["on the first day", "within it", "beyond it"],
)
def test_the_month_s_end_is_told_as_far_as_it_is_known(
    more: dict[str, Any], last: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show(cli_shown.month({**MONTH, **more}))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[-1] == last
    assert ("status    disabled" in lines) is ("status" in more)


def test_the_hour_that_comes_twice_is_two_lines_that_differ(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"calls": 1, "prompt_tokens": 2, "completion_tokens": 3}
    rows = [
        {"start": f"2026-10-25T02:00:00{offset}", "cost_usd": Decimal(cost), **counts}
        for offset, cost in (("+02:00", 2), ("+01:00", 1))
    ]
    show(cli_shown.rows({"interval": "hour", "group_by": None, "rows": rows}))
    assert [line.split() for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["2026-10-25", "02:00+02:00", "1", "5", "2", "#" * 20],
        ["2026-10-25", "02:00+01:00", "1", "5", "1", "#" * 10],
    ]


# Where it is.


def test_local_is_the_gateway_of_make_dev_with_its_keys(site: Site) -> None:
    here = {"PORT": site.url.rpartition(":")[2]}
    assert run("--local", "tenants", "list", environment=here).exit_code == 0
    assert run("--local", "quote", "sim/ok", "hello", environment=here).exit_code == 0
    other = run("--local", "tenants", "list", environment={**here, "FAREBOX_ADMIN_KEY": "mine"})
    assert (other.exit_code, other.stderr.endswith("(unauthenticated)\n")) == (1, True)


def test_a_proxy_for_the_outside_is_not_asked_for_this_machine(site: Site) -> None:
    assert site.run("tenants", "list", HTTP_PROXY="http://127.0.0.1:1", http_proxy="http://127.0.0.1:1").exit_code == 0


# The program.


def test_once_installed_it_is_a_program(tmp_path: Path) -> None:
    """`pip install` of the package as it is, without asking an index for what is here already."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "layers/farebox/farebox", tmp_path / "layers/farebox/farebox")
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index")
    target = tmp_path / "installed"
    subprocess.run([*pip, "--quiet", "--target", target, tmp_path], check=True, capture_output=True, timeout=120)
    for command in ([target / "bin/farebox"], [sys.executable, "-m", "farebox"]):
        ran = subprocess.run(
            [*command, "--version"],
            env={**PACKAGE, "PYTHONPATH": str(target)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert ran.stdout == f"farebox {__version__}\n"


@pytest.mark.parametrize("name", program.NEEDED)
def test_without_its_libraries_it_says_how_to_get_them(name: str) -> None:
    code = f"import sys; sys.modules[{name!r}] = None; from farebox.__main__ import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", code], env=PACKAGE, capture_output=True, text=True, check=False, timeout=60
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"farebox: the command line needs {name}; install it with: pip install click rich\n"


def test_it_brings_nothing_of_the_gateway() -> None:
    code = "import sys, farebox.cli; print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code], env=PACKAGE, capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(ran.stdout.split())
    assert "farebox.cli" in loaded
    assert not loaded & {"farebox.gate", "farebox.store", "aws_lambda_powertools", "pydantic", "botocore", "boto3"}
