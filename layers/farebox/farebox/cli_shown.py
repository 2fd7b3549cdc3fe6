"""What the command line shows of a gateway's answers: tables, bars and lines of text, 80 columns wide.

Names and sentences come from outside: what moves a terminal's cursor is not shown. Amounts are exact.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from rich.table import Table

BAR, BAR_WIDTH = "", 20
"""The head of a column of bars, and the longest one."""
NOTHING = "-"
_HOUR = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d):\d\d(\+\d\d:\d\d|-\d\d:\d\d|Z)")
Answer = Mapping[str, Any]


def plain(value: object) -> str:
    """Text that is only text."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))


def usd(value: Decimal | int | None) -> str:
    """All digits that there are, and no others: 0.00001305."""
    return NOTHING if value is None else f"{Decimal(value).normalize():f}"


def bar(part: Decimal, most: Decimal) -> str:
    """So much of the most; what is more than nothing is seen."""
    if part <= 0 or most <= 0:
        return ""
    return "#" * max(1, int(BAR_WIDTH * part / most))


def _table(*columns: str, right: Iterable[str] = (), is_tight: bool = False) -> Table:
    """Names fold where there is no room; numbers and bars do only in a table that is `is_tight`."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        is_right = column in right
        is_whole = (is_right or column == BAR) and not is_tight
        table.add_column(column, justify="right" if is_right else "left", overflow="fold", no_wrap=is_whole)
    return table


def _filled(table: Table, lines: Iterable[Sequence[object]]) -> Table:
    for line in lines:
        table.add_row(*map(plain, line))
    return table


def _listed(pairs: Iterable[tuple[str, object]]) -> Table:
    """A name and a value a line."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return _filled(table, pairs)


# Tenants and keys.


def tenants(found: Iterable[Answer]) -> Table:
    table = _table("tenant", "status", "daily", "monthly", "keys", "source", right=("daily", "monthly", "keys"))
    return _filled(
        table,
        (
            (
                each["name"],
                each["status"],
                usd(each["effective"]["daily"]),
                usd(each["effective"]["monthly"]),
                each["keys"],
                each["source"],
            )
            for each in found
        ),
    )


def tenant(found: Answer) -> Table:
    """What counts now, and where each of it comes from."""
    head = [(name, found[name]) for name in ("name", "status", "version", "source", "note", "created_at", "keys")]
    if found["purge_at"] is not None:
        head.append(("until then it can be brought back", found["purge_at"]))
    values = [
        (name, f"{_value(value)}  ({found['set_by'][name].replace('_', ' ')})")
        for name, value in found["effective"].items()
    ]
    if found["raise"] is not None:
        values.append(("raised until", found["raise"]["until"]))
    if found["time_zone_next"] is not None:
        values.append(("next time_zone", f"{found['time_zone_next']}, from {found['time_zone_from']}"))
    return _listed((*((name, _value(value)) for name, value in head), *values))


def _value(value: object) -> str:
    if isinstance(value, Decimal):
        return usd(value)
    if isinstance(value, Mapping):
        return f"{_value(value.get('from'))}={value.get('to')}"
    if isinstance(value, list):
        return ", ".join(_value(each) for each in value) or NOTHING
    return NOTHING if value in (None, "") else str(value)


def keys(found: Iterable[Answer]) -> Table:
    table = _table("id", "name", "status", "monthly", "expires", "last used", right=("monthly",))
    return _filled(
        table,
        (
            (
                each["id"],
                each["name"],
                each["status"],
                usd(each["monthly"]),
                _day(each["expires_at"]),
                _day(each["last_used"]),
            )
            for each in found
        ),
    )


def _day(moment: str | None) -> str:
    return NOTHING if moment is None else moment[:10]


# Usage.


def usage_of_all(found: Answer) -> Table:
    numbers = ("today", "month", "of", "forecast")
    table = _table("tenant", "state", *numbers, right=numbers, is_tight=True)
    return _filled(
        table,
        (
            (
                each["tenant"],
                each["state"] if each["status"] == "active" else each["status"],
                usd(None if each["daily"] is None else each["daily"]["spent_usd"]),
                usd(each["monthly"]["spent_usd"]),
                usd(each["monthly"]["limit_usd"]),
                usd(None if each["forecast"] is None else each["forecast"]["spent_usd"]),
            )
            for each in found["data"]
        ),
    )


def month(found: Answer) -> Table:
    """Both windows, and what the month will come to."""
    lines = [("tenant", f"{found['tenant']}, {found['month']} in {found['time_zone']}"), ("state", found["state"])]
    lines += [(name, found[name]) for name in ("status", "raised_until", "time_zone_next") if name in found]
    for name in ("daily", "monthly"):
        window = found[name]
        spent, limit, held = (usd(window[f"{part}_usd"]) for part in ("spent", "limit", "held"))
        lines.append((name, f"{spent} of {limit} USD, {held} held; until {window['resets_at']}"))
    forecast = found["forecast"]
    if forecast is not None:
        end = forecast["limit_reached_on"]
        reached = "" if end is None else f"; the limit is reached on {end}"
        lines.append(("forecast", f"{usd(forecast['spent_usd'])} USD at the month's end{reached}"))
    return _listed(lines)


def days(found: Answer) -> Table:
    """A bar for each day of the month so far that had calls."""
    most = max((day["spent_usd"] for day in found["days"]), default=Decimal(0))
    table = _table("day", "USD", BAR, right=("USD",))
    return _filled(table, ((day["day"], usd(day["spent_usd"]), bar(day["spent_usd"], most)) for day in found["days"]))


def rows(found: Answer) -> Table:
    """By interval and group. Of what is told by one of them a bar shows what each has cost."""
    heads = {"start": "start"} if found["interval"] != "all" else {}
    if found["group_by"] is not None:
        heads["group"] = found["group_by"]
    numbers, bars = ("calls", "tokens", "USD"), [] if len(heads) > 1 else [BAR]
    most = max((row["cost_usd"] for row in found["rows"]), default=Decimal(0))
    table = _table(*heads.values(), *numbers, *bars, right=numbers)
    return _filled(
        table,
        (
            (
                *(_start(row[name]) for name in heads),
                row["calls"],
                row["prompt_tokens"] + row["completion_tokens"],
                usd(row["cost_usd"]),
                *(bar(row["cost_usd"], most) for _ in bars),
            )
            for row in found["rows"]
        ),
    )


def _start(start: str) -> str:
    """An hour without its seconds, and with its offset: in autumn one comes twice. Others are as they are."""
    found = _HOUR.fullmatch(start)
    return start if found is None else "{} {}{}".format(*found.groups())


# Quotes and calls.


def quote(found: Answer) -> Table:
    """What would happen now."""
    lines = [("outcome", found["outcome"])]
    if found["outcome"] == "refused":
        lines += [("reason", found["reason"]), ("message", found["message"])]
    else:
        lines += [
            ("model", found["model"]),
            ("max_tokens", found["max_tokens"]),
            ("held", f"{usd(found['hold_usd'])} USD at most"),
        ]
    for name in ("daily", "monthly"):
        window = found[name]
        lines.append((name, f"{usd(window['remaining_usd'])} of {usd(window['limit_usd'])} USD left"))
    return _listed(lines)


def candidates(found: Answer) -> Table:
    """The models that could answer, and what each could cost at most."""
    table = _table("model", "role", "at most, USD", "", right=("at most, USD",))
    return _filled(
        table,
        (
            (each["model"], each["role"], usd(each.get("bound_usd")), each.get("reason", ""))
            for each in found["candidates"]
        ),
    )


def call(span: Answer) -> str:
    """One line; the time is UTC."""
    cost = f"{usd(span['cost_usd'])} USD" if span["cost_usd"] is not None else f"cost not known ({span['outcome']})"
    tokens = [span["prompt_tokens"], span["completion_tokens"]]
    words = [
        span["admitted_at"][11:19],
        span["tenant"],
        span["model"],
        f"{cost}{' (estimated)' if span['estimated'] else ''}",
        *([] if None in tokens else ["{}+{} tokens".format(*tokens)]),
        *([] if span["latency_ms"] is None else [f"{span['latency_ms']} ms"]),
        *([] if span["cause"] is None else [span["cause"]]),
    ]
    return plain("  ".join(map(str, words)))
