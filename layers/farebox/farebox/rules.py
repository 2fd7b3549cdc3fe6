"""A tenant's rules: which models it may use, and what happens before it is refused.

    {"per_request": 0.5, "in_flight": 200, "warn_at": 0.8, "degrade_at": 0.9, "server_tools": 0,
     "allow": ["openai/*"], "deny": ["*-pro"], "media": true,
     "downgrade": [{"from": ["openai/gpt-4o*"], "to": "openai/gpt-4o-mini"}], "fallback": ["openai/gpt-4o-mini"]}

What is left out is the default's, from the settings. Amounts are US dollars.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from .errors import Malformed, UnsupportedField
from .ledger import MAX_IN_FLIGHT
from .money import MAX_USD, NANOUSD_PER_USD, decimal_of, nanousd_ceil
from .policy import model_name
from .variants import matches

MAX_RULES = 50
MAX_IN_FLIGHT_ALLOWED = 2000
"""As many holds fill a ledger item of DynamoDB's 400 KB to three quarters."""


@dataclass(frozen=True, slots=True)
class Downgrade:
    """Models that match any of `sources` are replaced by `target`."""

    sources: tuple[str, ...]
    target: str


@dataclass(frozen=True, slots=True)
class Rules:
    """`request_nanousd` is the most that one call may hold, None without such a cap.

    `warn_at` and `degrade_at` are fractions of a window. `server_tools_nanousd` is the allowance of a call for tools
    that cost fees; with none they are refused. `media`: whether images, sounds, videos and files may be sent.
    """

    request_nanousd: int | None = None
    in_flight: int = MAX_IN_FLIGHT
    warn_at: Decimal = Decimal("0.8")
    degrade_at: Decimal = Decimal("0.9")
    allow: tuple[str, ...] = ("*",)
    deny: tuple[str, ...] = ()
    downgrades: tuple[Downgrade, ...] = ()
    fallbacks: tuple[str, ...] = ()
    server_tools_nanousd: int = 0
    media: bool = True

    def content(self) -> dict[str, Any]:
        """As JSON has it; `rules_of` reads it again."""
        usd = None if self.request_nanousd is None else Decimal(self.request_nanousd) / NANOUSD_PER_USD
        return {
            "per_request": None if usd is None else str(usd),
            "in_flight": self.in_flight,
            "warn_at": str(self.warn_at),
            "degrade_at": str(self.degrade_at),
            "allow": list(self.allow),
            "deny": list(self.deny),
            "downgrade": [{"from": list(rule.sources), "to": rule.target} for rule in self.downgrades],
            "fallback": list(self.fallbacks),
            "server_tools": str(Decimal(self.server_tools_nanousd) / NANOUSD_PER_USD),
            "media": self.media,
        }

    def models(self) -> tuple[str, ...]:
        """Every model that is named here, and must have a price."""
        return tuple(dict.fromkeys((*(rule.target for rule in self.downgrades), *self.fallbacks)))


class RulesError(Exception):
    """The end of a sentence that begins with where the rules are."""


def rules_of(entry: Mapping[str, Any], default: Rules) -> Rules:
    """The rules in a JSON object laid over default ones; null leaves the default. Raises RulesError."""
    unknown = entry.keys() - _READ.keys()
    if unknown:
        raise RulesError(f"[{min(unknown)[:40]}]: only {', '.join(_READ)} can be there")
    changes: dict[str, Any] = {}
    for name, (field, read) in _READ.items():
        if entry.get(name) is not None:
            try:
                changes[field] = read(entry[name])
            except RulesError as e:
                raise RulesError(f"[{name}]{e}") from None
    rules = replace(default, **changes)
    if rules.warn_at > rules.degrade_at:
        raise RulesError(f": warn_at ({rules.warn_at}) must not be above degrade_at ({rules.degrade_at})")
    return rules


def downgrades(rules: Iterable[Downgrade], model: str) -> tuple[str, ...]:
    """The models that a model is replaced by, one after the other, by the first rule that fits each."""
    rules = tuple(rules)
    found: list[str] = []
    while (target := _target(rules, found[-1] if found else model)) is not None and target not in (model, *found):
        found.append(target)
    return tuple(found)


def _target(rules: Sequence[Downgrade], model: str) -> str | None:
    """A rule leaves its own target alone, so `*` may be among its sources."""
    return next((rule.target for rule in rules if rule.target != model and matches(model, rule.sources)), None)


def checked(rules: Sequence[Downgrade]) -> tuple[Downgrade, ...]:
    """Refuse rules that lead in a circle. Raises RulesError."""
    for rule in rules:
        seen = [rule.target]
        while (target := _target(rules, seen[-1])) is not None:
            if target in seen:
                raise RulesError(f": the rules lead in a circle: {' -> '.join((*seen, target))}")
            seen.append(target)
    return tuple(rules)


# Readers of single values: each raises RulesError with the end of a sentence.


def _usd(value: Any) -> int:
    usd = decimal_of(value)
    if usd is None or not 0 <= usd <= MAX_USD:
        raise RulesError(f": must be US dollars from 0 to {MAX_USD:,}, not {str(value)[:40]!r}")
    return nanousd_ceil(usd)


def _in_flight(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_IN_FLIGHT_ALLOWED:
        raise RulesError(f": must be a whole number from 1 to {MAX_IN_FLIGHT_ALLOWED}, not {str(value)[:40]!r}")
    return value


def _fraction(value: Any) -> Decimal:
    part = decimal_of(value)
    if part is None or not 0 < part <= 1 or decimal_of(str(part)) is None:  # it is written as text, and read again
        raise RulesError(f": must be above 0 and at most 1, like 0.8, not {str(value)[:40]!r}")
    return part


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise RulesError(f": must be true or false, not {str(value)[:40]!r}")
    return value


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_RULES:
        raise RulesError(f": must be a list of at most {MAX_RULES} names of models")
    return tuple(_name(name) for name in value)


def _name(value: Any) -> str:
    try:
        return model_name("it", value)
    except (Malformed, UnsupportedField) as e:
        raise RulesError(f": {e.message}, not {str(value)[:40]!r}") from None


def _downgrades(value: Any) -> tuple[Downgrade, ...]:
    example = '{"from": ["openai/gpt-4o*"], "to": "openai/gpt-4o-mini"}'
    if not isinstance(value, list) or len(value) > MAX_RULES:
        raise RulesError(f": must be a list of at most {MAX_RULES} objects like {example}")
    rules = []
    for entry in value:
        if not isinstance(entry, Mapping) or entry.keys() != {"from", "to"}:
            raise RulesError(f": each must be an object like {example}")
        sources = entry["from"] if isinstance(entry["from"], list) else [entry["from"]]
        rules.append(Downgrade(_names(sources), _name(entry["to"])))
    return checked(rules)


_READ = {
    "per_request": ("request_nanousd", _usd),
    "in_flight": ("in_flight", _in_flight),
    "warn_at": ("warn_at", _fraction),
    "degrade_at": ("degrade_at", _fraction),
    "allow": ("allow", _names),
    "deny": ("deny", _names),
    "downgrade": ("downgrades", _downgrades),
    "fallback": ("fallbacks", _names),
    "server_tools": ("server_tools_nanousd", _usd),
    "media": ("media", _truth),
}
