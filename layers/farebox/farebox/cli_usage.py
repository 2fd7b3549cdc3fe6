"""`farebox usage`, `farebox quote` and `farebox tail`: what was spent, would be, and is being."""

from datetime import datetime
from typing import Any, BinaryIO

import click

from . import cli_shown as shown
from .cli_client import NotReached
from .cli_terminal import Terminal, as_json, misused, pass_terminal, say, show, show_json
from .money import dumps

LONGEST_CALL_S = 16 * 60
"""A span is written at the end of its call, under the moment of its beginning."""
MAX_SPANS = 1000
BEHIND_S = 60
"""Clocks differ."""


@click.command(
    epilog="Examples: farebox usage; farebox usage acme; "
    "farebox usage acme --from 2026-11-01 --group-by model --interval day --csv"
)
@click.argument("tenant", required=False)
@click.option("--from", "first", metavar="DAY", help="The first day or month, in the tenant's zone.")
@click.option("--to", "last", metavar="DAY", help="The last one.")
@click.option("--group-by", type=click.Choice(("feature", "provider", "model", "key")), help="A row for each of them.")
@click.option("--interval", type=click.Choice(("hour", "day", "month", "all")), help="A row for each of them.")
@click.option("--month", metavar="MONTH", help="Of all tenants: another month, like 2026-10.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV, with exact amounts.")
@as_json
@pass_terminal
def usage(
    terminal: Terminal,
    tenant: str | None,
    first: str | None,
    last: str | None,
    group_by: str | None,
    interval: str | None,
    month: str | None,
    *,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Show what a tenant has spent, or all tenants this month."""
    asked = {"from": first, "to": last, "group_by": group_by, "interval": interval}
    query = {name: value for name, value in asked.items() if value is not None}
    if as_csv and as_json:
        misused("--csv and --json do not go together")
    if tenant is None:
        if query:
            misused("--from, --to, --group-by and --interval need a tenant")
        _of_all(terminal, month, as_csv=as_csv, as_json=as_json)
    elif month is not None:
        misused("--month is for all tenants; for one there are --from and --to")
    elif not query and not as_csv:
        _so_far(terminal, tenant, as_json=as_json)
    else:
        query.setdefault("interval", "day" if group_by is None else "all")
        _rows(terminal, tenant, query, as_csv=as_csv, as_json=as_json)


def _of_all(terminal: Terminal, month: str | None, *, as_csv: bool, as_json: bool) -> None:
    if as_csv:
        for page in terminal.client.usage_of_all_csv(month):
            click.echo(page, nl=False)
        return
    found = terminal.client.usage_of_all(month)
    if as_json:
        show_json(found)
    else:
        show(shown.usage_of_all(found))


def _so_far(terminal: Terminal, tenant: str, *, as_json: bool) -> None:
    found = terminal.client.usage(tenant)
    if as_json:
        show_json(found)
    elif found["days"]:
        show(shown.month(found), shown.days(found))
    else:
        show(shown.month(found))


def _rows(terminal: Terminal, tenant: str, query: dict[str, Any], *, as_csv: bool, as_json: bool) -> None:
    if as_csv:
        click.echo(terminal.client.usage_csv(tenant, query), nl=False)
        return
    found = terminal.client.usage(tenant, query)
    if as_json:
        show_json(found)
        return
    show(shown.rows(found))
    until = datetime.fromisoformat(found["complete_until"])
    if until.timestamp() < terminal.clock.now() - BEHIND_S:
        say(f"farebox: complete until {found['complete_until']} only: the rollup is behind, or calls are many")


@click.command(
    epilog="Examples: farebox quote openai/gpt-4o-mini 'Say hello' --max-tokens 100; farebox quote --body request.json"
)
@click.argument("model", required=False)
@click.argument("prompt", required=False)
@click.option("--body", type=click.File("rb"), metavar="FILE", help="A whole request instead; - is stdin.")
@click.option("--max-tokens", type=int, metavar="N", help="Of the answer.")
@click.option("--tenant", metavar="NAME", help="Who would pay; else default, or the key's.")
@click.option("--feature", metavar="NAME", help="For what.")
@as_json
@pass_terminal
def quote(
    terminal: Terminal,
    model: str | None,
    prompt: str | None,
    body: BinaryIO | None,
    max_tokens: int | None,
    tenant: str | None,
    feature: str | None,
    *,
    as_json: bool,
) -> None:
    """Show what a request would come to now. Nothing is called, and nothing is held.

    Needs FAREBOX_GATEWAY_KEY, which may be a tenant's key.
    """
    if body is not None:
        if model is not None or max_tokens is not None:
            misused("--body has the model and everything else in it")
        request = body.read()
    elif model is None or prompt is None:
        misused("quote needs a model and a prompt, or --body FILE")
    else:
        content: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": prompt}]}
        request = dumps(content if max_tokens is None else {**content, "max_tokens": max_tokens}).encode()
    found = terminal.client.quote(request, tenant, feature)
    if as_json:
        show_json(found)
    else:
        show(shown.quote(found), shown.candidates(found))


@click.command(epilog="Example: farebox tail --tenant acme")
@click.option("--tenant", metavar="NAME", help="Only the calls of one.")
@click.option("--lines", type=click.IntRange(0, MAX_SPANS), default=10, show_default=True, help="To begin with.")
@click.option("--every", type=click.FloatRange(0.5), default=2.0, show_default=True, help="Seconds between two looks.")
@click.option("--once", is_flag=True, help="Show what there is, and end.")
@as_json
@pass_terminal
def tail(terminal: Terminal, tenant: str | None, lines: int, every: float, *, once: bool, as_json: bool) -> None:
    """Show the last calls, then each one as it ends; Ctrl-C ends it.

    A call whose cost was not known is shown again when it is. Each look reads the calls of the last 16 minutes.
    """
    ended = _look(terminal, tenant)
    for span in ended[max(0, len(ended) - lines) :]:
        _tell(span, as_json=as_json)
    while not once:
        told = {span["id"]: span["cost_usd"] for span in ended}
        try:
            terminal.clock.sleep(every)
            ended = _look(terminal, tenant)
        except KeyboardInterrupt:
            return
        except NotReached as e:
            say(f"farebox: {e}")
            continue
        for span in ended:
            if span["id"] not in told or told[span["id"]] != span["cost_usd"]:
                _tell(span, as_json=as_json)


def _look(terminal: Terminal, tenant: str | None) -> list[dict[str, Any]]:
    query = {"since": int(terminal.clock.now()) - LONGEST_CALL_S, "limit": MAX_SPANS}
    found = terminal.client.admin("GET", "spans", query=query if tenant is None else {**query, "tenant": tenant})
    if found["more"]:
        say("farebox: more calls than can be looked through; some may be left out")
    ended: list[dict[str, Any]] = found["data"]
    return ended


def _tell(span: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(span)
    else:
        click.echo(shown.call(span))
