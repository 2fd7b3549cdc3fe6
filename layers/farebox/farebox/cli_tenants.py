"""`farebox tenants` and `farebox keys`: the admin's side from a command line."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from . import cli_shown as shown
from .cli_terminal import Terminal, as_json, misused, pass_terminal, say, show, show_json

FIELDS = (
    "daily", "monthly", "time_zone", "note", "per_request", "in_flight", "warn_at", "degrade_at", "allow", "deny",
    "downgrade", "fallback", "server_tools", "media",
)  # fmt: skip
LISTS = ("allow", "deny", "fallback", "downgrade")
NUMBERS = ("warn_at", "degrade_at")
Command = Callable[..., Any]


def _settable(command: Command) -> Command:
    """The options for what a tenant can have. Amounts go as they are typed: the gateway checks them."""
    options = (
        click.option("--daily", metavar="USD", help="Budget of a day; 0 closes the tenant."),
        click.option("--monthly", metavar="USD", help="Budget of a calendar month."),
        click.option("--time-zone", metavar="ZONE", help="Where days and months begin, like Europe/Berlin."),
        click.option("--note", metavar="TEXT", help="For people."),
        click.option("--per-request", metavar="USD", help="The most that one call may hold."),
        click.option("--in-flight", type=int, metavar="N", help="Calls at the same time."),
        click.option("--warn-at", type=float, metavar="PART", help="Of a budget, like 0.8."),
        click.option(
            "--degrade-at", type=float, metavar="PART", help="From which downgrade rules apply to every call."
        ),
        click.option("--allow", multiple=True, metavar="PATTERN", help="Models that may be asked for. Repeatable."),
        click.option("--deny", multiple=True, metavar="PATTERN", help="Models that may not. Repeatable."),
        click.option("--downgrade", multiple=True, metavar="FROM=TO", help="A cheaper model near the cap. Repeatable."),
        click.option("--fallback", multiple=True, metavar="MODEL", help="Where one fails, in order. Repeatable."),
        click.option("--server-tools", metavar="USD", help="Allowance of one call for web search and the like."),
        click.option("--media/--no-media", default=None, help="Whether images, sounds, videos and files may be sent."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _wanted(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was said, as the admin's side takes it."""
    wanted = {name: given[name] for name in FIELDS if given[name] not in (None, ())}
    if "downgrade" in wanted:
        wanted["downgrade"] = [_rule(text) for text in wanted["downgrade"]]
    return wanted


def _rule(text: str) -> dict[str, Any]:
    source, is_rule, to = text.partition("=")
    if not (source and is_rule and to):
        misused(f"--downgrade takes FROM=TO, like openai/gpt-4o=openai/gpt-4o-mini, not {text!r}")
    return {"from": source, "to": to}


# Tenants.


@click.group()
def tenants() -> None:
    """Who pays, how much at most, and by which rules."""


@tenants.command("list", epilog="Example: farebox tenants list")
@as_json
@pass_terminal
def list_(terminal: Terminal, *, as_json: bool) -> None:
    """List all tenants by name."""
    found = list(terminal.client.pages("tenants"))
    if as_json:
        show_json({"data": found})
    else:
        show(shown.tenants(found))


@tenants.command("show", epilog="Example: farebox tenants show acme")
@click.argument("name")
@as_json
@pass_terminal
def show_(terminal: Terminal, name: str, *, as_json: bool) -> None:
    """Show what counts for a tenant, and where each of it comes from."""
    _tell(terminal.client.admin("GET", "tenants", name), as_json=as_json)


@tenants.command(epilog="Example: farebox tenants create acme --daily 5 --monthly 50")
@click.argument("name")
@_settable
@as_json
@pass_terminal
def create(terminal: Terminal, /, name: str, *, as_json: bool, **given: Any) -> None:
    """Create a tenant. What is left out is the default's."""
    found = terminal.client.admin("POST", "tenants", body={"name": name, **_wanted(given)})
    _tell(found, as_json=as_json)


@tenants.command(
    "set", epilog="Examples: farebox tenants set acme --daily 2.50; farebox tenants set acme --unset per-request"
)
@click.argument("name")
@_settable
@click.option("--unset", multiple=True, metavar="OPTION", help="Back to the default, like per-request. Repeatable.")
@click.option("--raise-daily", metavar="USD", help="A higher budget, with --until.")
@click.option("--raise-monthly", metavar="USD", help="The same for the month.")
@click.option("--until", metavar="MOMENT", help="When a raise ends, like 2026-12-01T00:00:00Z.")
@click.option("--no-raise", is_flag=True, help="End a raise now.")
@click.option("--version", type=int, metavar="N", help="Only if the tenant is still at this version.")
@as_json
@pass_terminal
def set_(
    terminal: Terminal,
    /,
    name: str,
    unset: tuple[str, ...],
    raise_daily: str | None,
    raise_monthly: str | None,
    until: str | None,
    version: int | None,
    *,
    no_raise: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Change a tenant; it counts for the next call. A list that is given replaces the one before."""
    wanted = {**_wanted(given), **dict.fromkeys(_fields(unset))}
    raised = {"daily": raise_daily, "monthly": raise_monthly, "until": until}
    if no_raise:
        wanted["raise"] = None
    elif any(raised.values()):
        wanted["raise"] = {field: value for field, value in raised.items() if value is not None}
    if not wanted:
        misused("nothing to change; see farebox tenants set --help")
    headers = {} if version is None else {"If-Match": f'"{version}"'}
    _tell(terminal.client.admin("PATCH", "tenants", name, body=wanted, headers=headers), as_json=as_json)


def _fields(options: Iterable[str]) -> list[str]:
    found = [option.removeprefix("--").replace("-", "_") for option in options]
    unknown = [field for field in found if field not in FIELDS]
    if unknown:
        misused(f"--unset takes one of {', '.join(FIELDS)}, not {unknown[0]}".replace("_", "-"))
    return found


@tenants.command(epilog="Example: farebox tenants disable acme")
@click.argument("name")
@as_json
@pass_terminal
def disable(terminal: Terminal, name: str, *, as_json: bool) -> None:
    """Admit no call of a tenant from now on."""
    _tell(terminal.client.admin("PATCH", "tenants", name, body={"status": "disabled"}), as_json=as_json)


@tenants.command(epilog="Example: farebox tenants enable acme")
@click.argument("name")
@as_json
@pass_terminal
def enable(terminal: Terminal, name: str, *, as_json: bool) -> None:
    """Admit calls again, also of a tenant that was deleted and is not gone yet."""
    _tell(terminal.client.admin("PATCH", "tenants", name, body={"status": "active"}), as_json=as_json)


@tenants.command(epilog="Example: farebox tenants delete acme --yes")
@click.argument("name")
@click.option("--grace-days", type=int, metavar="N", help="How long it can be brought back: 0 to 90, else 30.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@pass_terminal
def delete(terminal: Terminal, name: str, grace_days: int | None, *, yes: bool, as_json: bool) -> None:
    """Delete a tenant: its calls are refused at once, and it can be brought back for a while."""
    if not yes:
        click.confirm(f"Refuse all calls of {shown.plain(name)} from now on?", abort=True, err=True)
    query = {} if grace_days is None else {"grace_days": grace_days}
    _tell(terminal.client.admin("DELETE", "tenants", name, query=query), as_json=as_json)


def _tell(found: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(found)
    else:
        show(shown.tenant(found))
    for warning in found["warnings"]:
        say(f"farebox: {warning}")


# API keys.


@click.group()
def keys() -> None:
    """API keys of a tenant. Only `create` and `rotate` print a secret: on stdout, and this once."""


@keys.command("list", epilog="Example: farebox keys list acme")
@click.argument("tenant")
@as_json
@pass_terminal
def list_keys(terminal: Terminal, tenant: str, *, as_json: bool) -> None:
    """List a tenant's keys, the newest first."""
    found = terminal.client.admin("GET", "tenants", tenant, "keys")
    if as_json:
        show_json(found)
    else:
        show(shown.keys(found["data"]))


@keys.command("create", epilog="Example: KEY=$(farebox keys create acme --name web --monthly 20)")
@click.argument("tenant")
@click.option("--name", default="key", show_default=True, metavar="TEXT", help="For people.")
@click.option("--monthly", metavar="USD", help="The most that may be spent with it in a month.")
@click.option("--feature", metavar="NAME", help="What its calls are booked under.")
@click.option("--expires", metavar="MOMENT", help="Its end, like 2026-12-31T00:00:00Z.")
@click.option("--once", metavar="TEXT", help="The same text again, within ten minutes, makes no second key.")
@as_json
@pass_terminal
def create_key(
    terminal: Terminal,
    tenant: str,
    name: str,
    monthly: str | None,
    feature: str | None,
    expires: str | None,
    once: str | None,
    *,
    as_json: bool,
) -> None:
    """Create a key, and print it."""
    given = {"name": name, "monthly": monthly, "feature": feature, "expires_at": expires}
    body = {field: value for field, value in given.items() if value is not None}
    headers = {} if once is None else {"Idempotency-Key": once}
    _hand_over(terminal.client.admin("POST", "tenants", tenant, "keys", body=body, headers=headers), as_json=as_json)


@keys.command("rotate", epilog="Example: KEY=$(farebox keys rotate acme k3v9q2mwxd --overlap-hours 1)")
@click.argument("tenant")
@click.argument("id_", metavar="ID")
@click.option("--overlap-hours", type=int, default=24, show_default=True, metavar="N", help="So long both are good.")
@as_json
@pass_terminal
def rotate_key(terminal: Terminal, tenant: str, id_: str, overlap_hours: int, *, as_json: bool) -> None:
    """Put a new key in the place of one, and print it."""
    body = {"overlap_hours": overlap_hours}
    found = terminal.client.admin("POST", "tenants", tenant, "keys", id_, "rotate", body=body)
    _hand_over(found, as_json=as_json)
    say(f"farebox: {id_} is good for {overlap_hours} hours yet")


@keys.command("revoke", epilog="Example: farebox keys revoke acme k3v9q2mwxd")
@click.argument("tenant")
@click.argument("id_", metavar="ID")
@as_json
@pass_terminal
def revoke_key(terminal: Terminal, tenant: str, id_: str, *, as_json: bool) -> None:
    """Refuse calls with a key from now on."""
    found = terminal.client.admin("DELETE", "tenants", tenant, "keys", id_)
    if as_json:
        show_json(found)
    else:
        show(shown.keys([found]))


def _hand_over(made: Mapping[str, Any], *, as_json: bool) -> None:
    """The secret is all that goes to stdout, unless all of it is asked for."""
    if as_json:
        show_json(made)
    else:
        click.echo(made["key"])
    say(f"farebox: key {made['id']} of tenant {made['tenant']}; it is shown this once")
