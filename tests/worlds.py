"""Random catalogues and random requests, for tests.bounds: everything that moves a price, and all of it at once.

A world is a simulated OpenRouter with some models, and the gateway's own catalogue that has read them over its API.
Many are made so that little is left between quote and bill (a token a byte, whole prompts written to a cache), and
many endpoints are dear only in what no price cap bounds: else a quote that forgets something would seldom be seen.
Two things are not random, because the gateway takes them as given: models behind a router charge at most what rates.py
says (cache writes at 1.25 and 2 times the prompt, no dearer overrides below 100,000 tokens, no fees), and no model
searches the web unasked.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from random import Random
from typing import Any

import httpx

from farebox.catalogue import Catalogue
from farebox.errors import Refusal
from farebox.rules import Rules
from farebox.upstream import Upstream
from local.catalogue import POOL, Endpoint, Model
from local.scenarios import SCRIPTS, Script
from local.simulator import Simulator, transport

Json = dict[str, Any]

TIERS = {"flex": 0.5, "priority": 2.0, "ultrafast": 4.0}
CONTEXTS = (4_096, 32_768, 128_000, 200_000, 1_048_576)
OUTPUTS = (None, 1_024, 4_096, 16_384, 64_000)
TEXTS = tuple(
    text * (120_000 // len(text))
    for text in (
        "The fare is paid before you ride, and what is left of it is given back when you get off. ",
        "Плата вносится до поездки, а сдача возвращается при выходе. ",  # noqa: RUF001
        "乗る前に運賃を払います。お釣りは降りるときに返されます。",
        "车费在乘车之前支付，多余的部分在下车时退还。",  # noqa: RUF001
        "الأجرة تدفع قبل الركوب ﷺ والباقي يعاد عند النزول. ",
        "🚋💸🧾👍🏽 é ﬁ ½ ",
        'def fare(ride):\n\tif ride["to"] != "home":\n\t\treturn None  # "paid" \\ before\n',
    )
)
AS_MUCH_AS_ALLOWED = 99_999_999
DOWN = "acme/down"


@dataclass(frozen=True, slots=True)
class World:
    """One upstream and what the gateway knows of it."""

    simulator: Simulator
    catalogue: Catalogue
    models: Mapping[str, Model]
    names: tuple[str, ...]
    endpoints: Mapping[str, Endpoint]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, what is special about it, and how much the model means to generate (None: as its script says)."""

    body: Json
    kinds: frozenset[str]
    wants: int | None
    rules: Rules


# Catalogues.


def world(models: Mapping[str, Model]) -> World:
    """An upstream with these models."""
    simulator = Simulator(models=models)
    client = httpx.Client(transport=transport(simulator), trust_env=False)
    upstream = Upstream("http://simulator/api/v1", "simulated", client, lambda: 0.0)
    endpoints = {each.provider: each for model in models.values() for each in model.endpoints}
    named = [name for model in models.values() for name in (model.id, model.canonical_slug)]
    names = tuple(dict.fromkeys(named))
    return World(simulator, Catalogue(upstream, 1.0, lambda: 0.0), models, names, endpoints)


def random_world(chance: Random) -> World:
    """A few models with their siblings, an alias, a free one, one that is down, and routers with what they choose from.

    In some worlds dearer endpoints have appeared since the prices were read.
    """
    models: dict[str, Model] = {DOWN: Model(DOWN, SCRIPTS["sim/502"])}
    for number in range(3):
        scale = 10 ** chance.uniform(-7.3, -4.7)
        model = _model(chance, f"acme/m{number}", scale)
        models[model.id] = replace(model, canonical=f"{model.id}-20260801") if chance.random() < 0.5 else model
        for suffix, often, dearer in (("-fast", 0.5, 1.5), ("-pro", 0.8, 1.0), ("-pro-fast", 0.4, 1.5)):
            if chance.random() < often:
                sibling = _model(chance, f"{model.id}{suffix}", scale * dearer * chance.uniform(0.7, 2))
                models[sibling.id] = sibling
    target = models["acme/m0"]
    models["~acme/latest"] = Model("~acme/latest", target.script, target.endpoints, alias_of=target.id)
    free = Endpoint({"prompt": "0", "completion": "0"}, provider="free")
    models["acme/m0:free"] = Model("acme/m0:free", target.script, (free,))
    for name in POOL:
        models[name] = _chosen_by_routers(chance, name)
    for name in ("openrouter/auto", "openrouter/auto-beta"):
        unknown = {"prompt": "-1", "completion": "-1"}
        models[name] = Model(name, routes_to="sim/ok", shown_pricing=unknown)
    place = world(models)
    return _with_risen_prices(place) if chance.random() < 0.2 else place


def _with_risen_prices(place: World) -> World:
    """Endpoints that cost twice as much as any that the catalogue has seen; a price cap keeps them away.

    Their context is not longer than what the catalogue has seen: no cap that is sent bounds that.
    """
    context = min(CONTEXTS)
    endpoints = dict(place.endpoints)
    for name, model in place.models.items():
        if not model.routes_to and model.endpoints[0].provider != "free":
            with suppress(Refusal):
                place.catalogue.model(name)
                most = {
                    kind: _text(2 * max(float(str(e.pricing.get(kind, 0))) for e in place.endpoints.values()))
                    for kind in ("prompt", "completion")
                }
                risen = Endpoint(most, provider=f"{name}@risen", tag="risen", context_length=context)
                endpoints[risen.provider] = risen
                place.simulator.models[name] = replace(model, endpoints=(*model.endpoints, risen))
    return replace(place, endpoints=endpoints)


def _model(chance: Random, name: str, scale: float) -> Model:
    offers = [_endpoint(chance, f"{name}@{n}", scale * chance.uniform(0.7, 3)) for n in range(chance.randint(1, 3))]
    for tier, times in TIERS.items():
        if chance.random() < 0.6:
            dearer = chance.choice((times, 1.0)) * chance.uniform(0.8, 1.5)
            offer = _endpoint(chance, f"{name}@{tier}", scale * dearer)
            offers.append(replace(offer, tag=f"{offer.tag}/{tier}", service_tier=tier))
    if chance.random() < 0.6:  # one for all: a quote goes by the longest
        context = chance.choice(CONTEXTS)
        offers = [replace(each, context_length=context) for each in offers]
    return Model(name, _script(chance), tuple(offers))


def _script(chance: Random) -> Script:
    output, part, is_tight = round(chance.lognormvariate(6, 1)), chance.choice((0.0, 0.0, 1.0)), chance.random() < 0.6
    return Script(
        wants=lambda _prompt_tokens: output,
        reasons=lambda completion: int(completion * part),
        bytes_per_token=1 if is_tight else chance.choice((2, 3, 4)),
        tokens_per_message=32 if is_tight else chance.choice((3, 8)),
        tokens_per_image=2_000_000 if is_tight else chance.choice((85, 1_000, 90_000)),
        tokens_per_media=chance.choice((500, 20_000)),
        cache_writes=is_tight or chance.random() < 0.3,
        cache_reads=chance.random() < 0.2,
        is_byok=chance.random() < 0.1,
    )


def _endpoint(chance: Random, provider: str, scale: float) -> Endpoint:
    prices = _prices(chance, scale)
    if chance.random() < 0.5:
        prices["overrides"] = [_override(chance, scale) for _ in range(chance.randint(1, 2))]
    if chance.random() < 0.15:
        prices["discount"] = Decimal(chance.randint(1, 60)).scaleb(-2)
    return Endpoint(
        prices,
        provider=provider,
        tag=provider.rpartition("@")[0].rpartition("/")[2] or "x",
        context_length=chance.choice(CONTEXTS),
        max_completion_tokens=chance.choice(OUTPUTS),
    )


def _prices(chance: Random, scale: float) -> Json:
    """A rate for everything that has one, each with a chance to be dearer than what it stands beside."""
    completion, hidden = scale * chance.uniform(1, 8), chance.choice((1, 1, 5))
    optional = {
        "input_cache_read": (0.5, scale * chance.uniform(0.1, 1.2)),
        "input_cache_write": (0.5, hidden * scale * chance.uniform(1, 2)),
        "input_cache_write_1h": (0.4, hidden * scale * chance.uniform(1.5, 4)),
        "internal_reasoning": (0.3, hidden * completion * chance.choice((0, 1, 1.5))),
        "image_token": (0.2, scale * chance.uniform(0.5, 3)),
        "audio": (0.3, hidden * scale * chance.uniform(1, 5)),
        "image": (0.3, chance.uniform(0.0001, 0.05)),
        "request": (0.2, chance.uniform(0.0001, 0.01)),
        "web_search": (0.2, chance.uniform(0.001, 0.04)),
    }
    found = {name: amount for name, (often, amount) in optional.items() if chance.random() < often}
    return {name: _text(amount) for name, amount in {"prompt": scale, "completion": completion, **found}.items()}


def _override(chance: Random, scale: float) -> Json:
    dearer = _prices(chance, scale * chance.uniform(0.5, 3))
    kept = {name: price for name, price in dearer.items() if chance.random() < 0.6}
    if chance.random() < 0.2:
        return {**kept, "utc_start": 800, "utc_end": 1_600}
    return {**kept, "min_prompt_tokens": chance.choice((100, 1_000, 4_000, 30_000, 200_000))}


def _chosen_by_routers(chance: Random, name: str) -> Model:
    scale = 10 ** chance.uniform(-7, -5)
    rates = (("prompt", 1.0), ("completion", chance.uniform(1, 8)), ("input_cache_write", chance.uniform(1, 1.25)))
    prices: Json = {kind: _text(scale * times) for kind, times in rates}
    far = {kind: _text(scale * times * 3) for kind, times in rates}
    prices["overrides"] = [{**far, "min_prompt_tokens": 100_000}]
    offer = Endpoint(prices, provider=f"{name}@0", context_length=chance.choice(CONTEXTS), max_completion_tokens=None)
    return Model(name, _script(chance), (offer,))


def _text(usd: float) -> str:
    """USD in twelve digits after the point, as OpenRouter writes a price."""
    return f"{usd:.12f}"


# Requests.


def random_request(chance: Random, place: World) -> Asked:
    """One request with any of the things that move its price."""
    name, kinds = _name(chance, place), set[str]()
    body: Json = {"model": name, "messages": _messages(chance, kinds)}
    if chance.random() < 0.15:
        body["models"] = [_name(chance, place) for _ in range(chance.randint(1, 2))]
        if chance.random() < 0.5:
            body["model"] = DOWN
        kinds.add("several models")
    if any("openrouter/" in each for each in (name, *body.get("models", ()))):
        body["provider"] = {"max_price": {"prompt": chance.uniform(0.1, 20), "completion": chance.uniform(0.5, 80)}}
    _limits(chance, body, kinds)
    _routing(chance, body, kinds, place)
    _tools(chance, body, kinds)
    if ":" in name.removesuffix(":free"):
        kinds.add(f"suffix :{name.rpartition(':')[2]}")
    wants = chance.choice((None, AS_MUCH_AS_ALLOWED, AS_MUCH_AS_ALLOWED))
    rules = Rules(
        server_tools_nanousd=chance.choice((0, 10**7, 2 * 10**8))
        if "tool fees" not in kinds
        else chance.choice((10**5, 10**8))
    )
    return Asked(body, frozenset(kinds), wants, rules)


def _name(chance: Random, place: World) -> str:
    suffix = chance.choice((":nitro", ":floor", ":online", ":exacto")) if chance.random() < 0.2 else ""
    return chance.choice(place.names) + suffix


def _messages(chance: Random, kinds: set[str]) -> list[Json]:
    longest = 90_000 if chance.random() < 0.03 else 8_000
    messages: list[Json] = []
    for _ in range(chance.randint(1, 4)):
        size = min(longest, round(chance.lognormvariate(6 if longest < 90_000 else 10, 1)))
        messages.append({"role": "user", "content": chance.choice(TEXTS)[:size] or "?"})
    if chance.random() < 0.2:
        parts = [{"type": "text", "text": messages[-1]["content"]}]
        for kind, often in (("image_url", 0.7), ("input_audio", 0.4)):
            parts += [{"type": kind}] * (chance.randint(1, 4) if chance.random() < often else 0)
        messages[-1]["content"] = parts
    if chance.random() < 0.2:
        ttl = chance.choice(("5m", "1h", None))
        text = {
            "type": "text",
            "text": "Cached.",
            "cache_control": {"type": "ephemeral", **({"ttl": ttl} if ttl else {})},
        }
        messages.insert(0, {"role": "system", "content": [text]})
        kinds.add("cache_control")
    return messages


def _limits(chance: Random, body: Json, kinds: set[str]) -> None:
    asked = chance.choice((1, 16, 300, 2_000, 30_000, chance.randint(1, 9_000)))
    match chance.randrange(5):
        case 0:
            kinds.add("no max_tokens")
        case 1:
            body["max_completion_tokens"] = asked
        case 2:
            body.update(max_tokens=chance.randint(1, 9_000), max_completion_tokens=asked)
            kinds.add("both max_ fields")
        case _:
            body["max_tokens"] = asked
    if chance.random() < 0.15:
        body["reasoning"] = {"mode": "pro"}
    elif chance.random() < 0.1:
        body["reasoning"] = {"effort": "high"}


def _routing(chance: Random, body: Json, kinds: set[str], place: World) -> None:
    if chance.random() < 0.2:
        body["service_tier"] = chance.choice(("auto", "default", "flex", "priority", "fast", "ultrafast", "scale"))
        kinds.add(f"service_tier {body['service_tier']}")
    if chance.random() < 0.07:
        body["speed"] = "fast"
        kinds.add("speed fast")
    if chance.random() < 0.1:
        offer = chance.choice(tuple(place.endpoints.values()))
        body.setdefault("provider", {})[chance.choice(("order", "only"))] = [offer.tag]
        kinds.add("provider's order or only")
    if chance.random() < 0.05:
        caps = body.setdefault("provider", {}).setdefault("max_price", {})
        caps["completion"] = min(caps.get("completion", 99), chance.uniform(1, 90))
        kinds.add("own price cap")


def _tools(chance: Random, body: Json, kinds: set[str]) -> None:
    if chance.random() < 0.15:
        about = chance.choice(TEXTS[:1] + TEXTS[-1:])[: chance.randint(20, 1_500)]
        schema = {
            "type": "object",
            "properties": {"stop": {"type": "string", "description": about}},
            "required": ["stop"],
        }
        body["tools"] = [{"type": "function", "function": {"name": "fare", "parameters": schema}}] * chance.randint(
            1, 5
        )
        kinds.add("tools")
    if chance.random() < 0.06:
        options = {"max_results": chance.randint(1, 30)} if chance.random() < 0.5 else {}
        engine = chance.choice(({}, {"engine": "native"}, {"engine": "exa-deep-reasoning"}))
        body["plugins"] = [{"id": "web", **options, **engine}]
        kinds |= {"web plugin", "tool fees"}
    if chance.random() < 0.06:
        given = chance.sample(("openrouter:web_search", "openrouter:web_fetch", "openrouter:datetime"), 2)
        found: Json = {"parameters": {"max_results": chance.randint(1, 30)}} if chance.random() < 0.5 else {}
        body["tools"] = [*body.get("tools", ()), *({"type": kind, **found} for kind in given)]
        if chance.random() < 0.3:
            body["stop_server_tools_when"] = [{"type": "step_count_is", "step_count": chance.randint(1, 5)}]
        kinds |= {"server tools", "tool fees"}


def text_of(asked: Asked, chance: Random) -> bytes:
    """The body as one client or another writes it."""
    indent = 2 if chance.random() < 0.1 else None
    return json.dumps(asked.body, ensure_ascii=chance.random() < 0.5, indent=indent).encode()
