"""Names of models: what their suffixes ask for, and the patterns by which tenants speak of them.

    :nitro    the fastest endpoints, also of the priority tier    :exacto   the best endpoints, at the same prices
    :floor    the cheapest endpoints, also of the flex tier       :online   a web search before the answer

These four are ways to route and have no row in the catalogue. Others (`:free`, `:thinking`, `:extended`) are models
with a row and a price of their own.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase

FLEX = "flex"
PRIORITY = "priority"
ULTRAFAST = "ultrafast"
SCALE = "scale"

_NO_TIERS: frozenset[str] = frozenset()
_TIERS_OF_SUFFIX = {
    "nitro": frozenset({PRIORITY}),
    "floor": frozenset({FLEX}),
    "exacto": _NO_TIERS,
    "online": _NO_TIERS,
}
PRESET = "@preset/"


@dataclass(frozen=True, slots=True)
class Variant:
    """A model's name taken apart. `service_tiers` are those whose endpoints a suffix admits beside the default ones."""

    name: str
    base: str
    service_tiers: frozenset[str]
    is_online: bool


def variant(name: str) -> Variant:
    """What a name asks for; a name without a routing suffix is its own base."""
    base, tiers, is_online = name, _NO_TIERS, False
    while (suffix := base.rpartition(":")[2]) in _TIERS_OF_SUFFIX and suffix != base:
        base = base.removesuffix(f":{suffix}")
        tiers |= _TIERS_OF_SUFFIX[suffix]
        is_online = is_online or suffix == "online"
    return Variant(name, base, tiers, is_online)


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether any pattern fits: `openai/*`, `*:free`, or a whole name. Case counts, as it does for OpenRouter."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
