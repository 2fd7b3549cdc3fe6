"""The simulated models: who serves them, at which prices, and the rows that /models and its endpoints page show.

Prices are strings in USD per token, as OpenRouter sends them. The first endpoint of a model is its top provider, whose
prices /models shows; others may be dearer.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from local.bill import Pricing
from local.scenarios import CHATTY, PLAIN, SCRIPTS, Script

CREATED: Final = 1_780_272_000  # 2026-06-01
PARAMETERS: Final = (
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "stop",
    "tools",
    "tool_choice",
    "seed",
)
DYNAMIC_SUFFIXES: Final = (":nitro", ":floor", ":online", ":exacto")
POOL: Final = ("sim/ok", "sim/cent", "sim/agent-cheap", "sim/agent")  # what routers choose from


def pricing(prompt: str, completion: str, **more: object) -> Pricing:
    """A pricing object of the catalogue."""
    return {"prompt": prompt, "completion": completion, **more}


CHEAP: Final = pricing("0.00000015", "0.0000006")
CENT: Final = pricing("0.00001", "0.00001")
FREE: Final = pricing("0", "0")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One provider's offer of a model."""

    pricing: Pricing
    provider: str = "Simulated"
    tag: str = "simulated"
    context_length: int = 128_000
    max_completion_tokens: int | None = 16_384
    service_tier: str | None = None
    stops_billing: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """A routable slug, its behaviour and its endpoints.

    A model named `<id>-fast` or `<id>-pro` is the sibling that a faster tier or a pro reasoning mode reroutes to. A
    router (`routes_to`) has its work done by others, which costs `bills_times` as much as the one that answers.
    """

    id: str
    script: Script = PLAIN
    endpoints: tuple[Endpoint, ...] = (Endpoint(CHEAP),)
    canonical: str | None = None
    alias_of: str | None = None
    routes_to: str | None = None
    bills_times: int = 1
    inputs: tuple[str, ...] = ("text",)
    shown_pricing: Pricing | None = None

    @property
    def canonical_slug(self) -> str:
        """The permanent slug; most simulated models have only one name."""
        return self.canonical or self.id

    @property
    def target(self) -> str | None:
        """The model that answers in place of an alias or a router."""
        return self.alias_of or self.routes_to


def row(model: Model) -> dict[str, object]:
    """The model as /models lists it."""
    top = model.endpoints[0]
    shown: dict[str, object] = {
        "id": model.id,
        "canonical_slug": model.canonical_slug,
        "hugging_face_id": None,
        "name": model.id,
        "created": CREATED,
        "description": "A simulated model; local/scenarios.py says how it behaves.",
        "context_length": top.context_length,
        "architecture": _architecture(model),
        "pricing": model.shown_pricing or top.pricing,
        "top_provider": {
            "context_length": top.context_length,
            "max_completion_tokens": top.max_completion_tokens,
            "is_moderated": False,
        },
        "per_request_limits": None,
        "supported_parameters": PARAMETERS,
        "default_parameters": None,
        "supported_voices": None,
        "expiration_date": None,
        "links": {"details": f"/api/v1/models/{model.canonical_slug}/endpoints"},
    }
    if model.alias_of is not None:
        shown["alias_target"] = {"slug": model.alias_of, "name": model.alias_of}
    return shown


def endpoints_page(model: Model) -> dict[str, object]:
    """The model as /models/{author}/{slug}/endpoints shows it."""
    return {
        "id": model.id,
        "name": model.id,
        "created": CREATED,
        "description": "A simulated model; local/scenarios.py says how it behaves.",
        "architecture": _architecture(model),
        "endpoints": [_endpoint(model, endpoint) for endpoint in model.endpoints],
    }


def _endpoint(model: Model, endpoint: Endpoint) -> dict[str, object]:
    return {
        "name": f"{endpoint.provider} | {model.canonical_slug}",
        "model_id": model.id,
        "model_name": model.id,
        "context_length": endpoint.context_length,
        "pricing": endpoint.pricing,
        "provider_name": endpoint.provider,
        "tag": endpoint.tag,
        "quantization": None,
        "max_completion_tokens": endpoint.max_completion_tokens,
        "max_prompt_tokens": None,
        "service_tier": endpoint.service_tier,
        "supported_parameters": PARAMETERS,
        "supports_implicit_caching": False,
        "supports_diarization": False,
        "supports_tool_choice": {"auto": True, "function": True, "none": True, "required": True},
        "native_tools": {},
        "status": 0,
        "uptime_last_5m": 100,
        "uptime_last_30m": 100,
        "uptime_last_1d": 100,
        "latency_last_30m": None,
        "throughput_last_30m": None,
    }


def _architecture(model: Model) -> dict[str, object]:
    return {
        "modality": f"{'+'.join(model.inputs)}->text",
        "input_modalities": model.inputs,
        "output_modalities": ["text"],
        "tokenizer": "Router" if model.routes_to else "Other",
        "instruct_type": None,
    }


def split(slug: str) -> tuple[str, frozenset[str]]:
    """A slug without its dynamic suffixes, and these: they name no model of their own."""
    found: set[str] = set()
    while slug.endswith(DYNAMIC_SUFFIXES):
        slug, _, suffix = slug.rpartition(":")
        found.add(f":{suffix}")
    return slug, frozenset(found)


def find(models: Mapping[str, Model], slug: str) -> Model | None:
    """A model by id or canonical slug, with dynamic suffixes or without."""
    slug, _ = split(slug)
    named = models.get(slug)
    return named or next((model for model in models.values() if model.canonical_slug == slug), None)


def _dearer(times: Decimal | int, base: Pricing) -> Pricing:
    return {name: f"{Decimal(str(price)) * times:f}" for name, price in base.items()}


def _tier(name: str, times: Decimal | int) -> Endpoint:
    return Endpoint(_dearer(times, CHEAP), tag=f"simulated/{name}", service_tier=name)


def _real(
    slug: str, prompt: str, completion: str, context: int, output: int, *, canonical: str | None = None, **more: object
) -> Model:
    endpoint = Endpoint(pricing(prompt, completion, **more), context_length=context, max_completion_tokens=output)
    return Model(slug, CHATTY, (endpoint,), canonical=canonical)


def _special() -> Iterable[Model]:
    for slug in ("sim/cent", "sim/cent-bytes"):
        yield Model(slug, SCRIPTS[slug], (Endpoint(CENT),))
    yield Model("sim/stop-billing", SCRIPTS["sim/stop-billing"], (Endpoint(CENT, stops_billing=True),))
    yield Model("sim/free:free", SCRIPTS["sim/free:free"], (Endpoint(FREE),))
    yield Model("sim/dear-provider", PLAIN, (Endpoint(CHEAP), Endpoint(_dearer(5, CHEAP), "Dear", "dear")))
    flex, priority, ultrafast = _tier("flex", Decimal("0.5")), _tier("priority", 2), _tier("ultrafast", 4)
    yield Model("sim/priority", PLAIN, (Endpoint(CHEAP), priority))
    yield Model("sim/tiers", PLAIN, (Endpoint(CHEAP), flex, priority, ultrafast))
    yield Model("sim/tiers-2-fast", PLAIN, (Endpoint(_dearer(6, CHEAP)),))
    override = {"min_prompt_tokens": 1000, **_dearer(2, CHEAP)}
    yield Model("sim/long-context", PLAIN, (Endpoint({**CHEAP, "overrides": [override]}),))
    cached = {**CHEAP, "input_cache_read": "0.000000015", "input_cache_write": "0.0000001875"}
    written = {**cached, "input_cache_write_1h": "0.0000004"}
    yield Model("sim/cache-write", SCRIPTS["sim/cache-write"], (Endpoint(written),))
    yield Model("sim/cache-read", SCRIPTS["sim/cache-read"], (Endpoint(cached),))
    seen_and_heard = {**CHEAP, "image": "0.0012", "audio": "0.00000105"}
    inputs = ("text", "image", "audio", "file")
    yield Model("sim/vision", SCRIPTS["sim/vision"], (Endpoint(seen_and_heard),), inputs=inputs)
    for slug, prompt, completion in (
        ("sim/agent", "0.000015", "0.000075"),
        ("sim/agent-cheap", "0.000003", "0.000015"),
    ):
        offer = Endpoint(pricing(prompt, completion), context_length=200_000, max_completion_tokens=64_000)
        yield Model(slug, SCRIPTS[slug], (offer,))
    yield Model("sim/canonical", SCRIPTS["sim/canonical"], canonical="sim/canonical-20260801")
    yield Model("~sim/family-latest", PLAIN, alias_of="sim/family-2")
    yield Model("sim/discount", PLAIN, (Endpoint({**CHEAP, "discount": Decimal("0.25")}),))
    yield Model("sim/no-max-output", PLAIN, (Endpoint(CHEAP, max_completion_tokens=None),))
    yield Model("sim/huge", SCRIPTS["sim/huge"], (Endpoint(CHEAP, max_completion_tokens=65_536),))
    for slug, times in (("openrouter/auto", 1), ("openrouter/auto-beta", 1), ("openrouter/fusion", 5)):
        auto = Endpoint(CENT, max_completion_tokens=None)
        unknown = pricing("-1", "-1")
        yield Model(slug, PLAIN, (auto,), routes_to="sim/cent", bills_times=times, shown_pricing=unknown)
    # List prices as of 2026, for demonstrations only.
    yield _real("openai/gpt-4o-mini", "0.00000015", "0.0000006", 128_000, 16_384, input_cache_read="0.000000075")
    yield _real("openai/gpt-4o", "0.0000025", "0.00001", 128_000, 16_384, input_cache_read="0.00000125")
    yield _real(
        "anthropic/claude-sonnet-4.6", "0.000003", "0.000015", 1_000_000, 64_000,
        canonical="anthropic/claude-4.6-sonnet-20260217", input_cache_read="0.0000003", input_cache_write="0.00000375",
    )  # fmt: skip
    yield _real("google/gemini-2.5-flash", "0.0000003", "0.0000025", 1_048_576, 65_536)
    yield _real("meta-llama/llama-3.3-70b-instruct", "0.0000000375", "0.00000012", 131_072, 16_384)


def catalogue() -> dict[str, Model]:
    """All models by id: one plain row for every script that needs no special one."""
    plain = {slug: Model(slug, script) for slug, script in SCRIPTS.items()}
    return plain | {model.id: model for model in _special()}
