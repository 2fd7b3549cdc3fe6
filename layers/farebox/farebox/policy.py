"""What moves the price of a request: read where it can be bounded, refused by name where it cannot. Null means absent.

models              priced     the dearest of the list decides
service_tier        priced     endpoints of that tier count; so does a model's `-fast` sibling
speed               priced     `fast` is the priority tier under Anthropic's name
reasoning.mode      priced     `pro` is the model's `-pro` sibling
cache_control       priced     writes that are kept for an hour cost more (chat.py)
images, audio       priced     as many tokens as the context has, and the fee for each image
files               priced     where file-parser has an engine without a fee for each page, else refused
web, server tools   allowance  refused, unless the tenant has an allowance for them
max_tokens          clamped    to what is affordable (pricing.py)
provider.max_price  lowered    to ours where it is above (pricing.py)
all of _UNSUPPORTED refused
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .body import shown
from .errors import Malformed, UnsupportedField
from .money import decimal_of
from .variants import FLEX, PRESET, PRIORITY, SCALE, ULTRAFAST

_UNSUPPORTED = {
    "preset": "a preset, which changes the request out of sight",
    "deferred_tools": "tools that the router runs, which cost fees of their own",
    "prediction": "predicted output, whose rejected tokens are billed too",
    "audio": "spoken output",
    "image_config": "images as output",
    "prompt": "a text completion; send messages",
    "extra_body": "members of another body; send them at the top",
    "fallbacks": "other models; send models",
}
_PROVIDER = frozenset({
    "order", "only", "ignore", "allow_fallbacks", "require_parameters", "data_collection", "zdr",
    "enforce_distillable_text", "quantizations", "sort", "preferred_min_throughput", "preferred_max_latency",
    "max_price",
})  # fmt: skip
"""Routing among endpoints that the price cap lets through. Not `options`: they may ask for a dearer tier."""
_PLAIN_TIERS = ("auto", "default", "standard")
_TIERS = {
    "flex": frozenset({FLEX}),
    "priority": frozenset({PRIORITY}),
    "fast": frozenset({PRIORITY}),
    "ultrafast": frozenset({ULTRAFAST, PRIORITY}),
    "scale": frozenset({SCALE, ULTRAFAST, PRIORITY, FLEX}),
}
"""Whose endpoints may serve a tier: ultrafast falls back to priority; what scale means is not documented, so any."""
_FREE_PLUGINS = frozenset({"response-healing", "context-compression", "auto-router", "auto-beta-router"})
"""They mend JSON, shorten prompts or choose among models, without a fee and without a call of their own."""
_FREE_PDF_ENGINES = frozenset({"native", "cloudflare-ai", "pdf-text"})
"""Not mistral-ocr, which costs 2 USD for 1000 pages, and nobody knows the pages beforehand."""
_SERVER_TOOLS = frozenset({"openrouter:web_search", "openrouter:web_fetch", "openrouter:datetime", "web_search"})
"""Those whose fees are small and known. Others call models, at any price."""
MAX_MODELS = 20


@dataclass(frozen=True, slots=True)
class Extras:
    """What a request asks for besides a plain answer. `web_results` is None without anything that costs fees.

    `service_tiers` are those whose endpoints may serve it beside the default ones; `required_tier` is the dearer one
    that it asked for by name.
    """

    service_tiers: frozenset[str] = frozenset()
    required_tier: str | None = None
    is_pro: bool = False
    web_results: int | None = None
    has_server_tools: bool = False
    parses_files_free: bool = False

    @property
    def is_rerouted(self) -> bool:
        """Whether a sibling of the model may be what was asked for by name."""
        return self.is_pro or self.required_tier is not None


def extras_of(values: Mapping[str, Any]) -> Extras:
    """Look at the top-level members of a request. Raises UnsupportedField, Malformed."""
    for name, what in _UNSUPPORTED.items():
        if values.get(name) not in (None, []):
            raise UnsupportedField(f"{name} is not supported: it asks for {what}", facts={"field": name})
    for name in ("n", "best_of"):
        _allow(name, values.get(name), [1], "one choice a call")
    _allow("modalities", values.get("modalities"), [["text"]], "text output")
    _allow("route", values.get("route"), ["fallback", "sort"], "fallback and sort")
    tier = _service_tier(values)
    plugins = _plugins(values.get("plugins"))
    tools = _server_tools(values.get("tools"))
    _check_tool_choice(values.get("tool_choice"), tools)
    return Extras(
        service_tiers=(_TIERS[tier] if tier else frozenset()) | _provider_tiers(values.get("provider")),
        required_tier=None if tier in (None, "flex") else tier,
        is_pro=_is_pro(values.get("reasoning")),
        web_results=_web_results(plugins.get("web"), tools, values.get("web_search_options")),
        has_server_tools=bool(tools),
        parses_files_free=_parses_files_free(plugins),
    )


def models_of(value: Any) -> tuple[str, ...]:
    """The list of fallback models that OpenRouter tries in turn. Raises Malformed."""
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MAX_MODELS:
        raise Malformed(f"models must be a list of at most {MAX_MODELS} names")
    return tuple(model_name("models", name) for name in value)


MAX_MODEL_LENGTH = 200


def model_name(field: str, value: Any) -> str:
    """A model's name. Raises Malformed; UnsupportedField for a preset."""
    if not isinstance(value, str) or not value or len(value) > MAX_MODEL_LENGTH or not value.isprintable():
        raise Malformed(f"{field} must name a model with a string of 1 to {MAX_MODEL_LENGTH} printable characters")
    if PRESET in value:
        raise UnsupportedField(
            f"{field} is not supported with a preset, which changes the request out of sight", facts={"field": field}
        )
    return value


def _service_tier(values: Mapping[str, Any]) -> str | None:
    """The tier that was asked for by name, None for the default one."""
    tier = values.get("service_tier")
    if tier is not None and tier not in _PLAIN_TIERS and (not isinstance(tier, str) or tier not in _TIERS):
        raise Malformed(f"service_tier must be one of {', '.join((*_PLAIN_TIERS, *_TIERS))}")
    speed = values.get("speed")
    if speed not in (None, "fast", "standard"):
        raise Malformed("speed must be standard or fast")
    asked = None if tier in _PLAIN_TIERS else tier
    return "priority" if speed == "fast" and asked in (None, "flex") else asked


def _is_pro(reasoning: Any) -> bool:
    mode = reasoning.get("mode") if isinstance(reasoning, Mapping) else None
    _allow("reasoning.mode", mode, ["standard", "default", "pro"], "standard and pro")
    return mode == "pro"


def _provider_tiers(provider: Any) -> frozenset[str]:
    """Check `provider`; the tiers whose endpoints it names."""
    if provider is None:
        return frozenset()
    if not isinstance(provider, Mapping):
        raise Malformed("provider must be an object")
    unknown = {name for name, value in provider.items() if value is not None} - _PROVIDER
    if unknown:
        name = min(unknown)
        raise UnsupportedField(
            f"provider.{name[:60]} is not supported: it may change the price", facts={"field": "provider"}
        )
    _check_max_price(provider.get("max_price"))
    slugs = [slug for name in ("order", "only") for slug in _slugs(name, provider.get(name))]
    words = [word.strip() for slug in slugs for word in slug.lower().split("/")]
    return frozenset[str]().union(*(_TIERS.get(word, ()) for word in words))


def _slugs(name: str, value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(slug, str) for slug in value):
        raise Malformed(f"provider.{name} must be a list of providers' names")
    return value


def _check_max_price(max_price: Any) -> None:
    if max_price is not None and not isinstance(max_price, Mapping):
        raise Malformed("provider.max_price must be an object")
    for name, value in (max_price or {}).items():
        if value is not None and ((usd := decimal_of(value)) is None or usd < 0):
            raise Malformed(f"provider.max_price.{name[:60]} must be a number of US dollars, zero or more")


def _plugins(value: Any) -> dict[str, Mapping[str, Any]]:
    """Plugins that are switched on, by id. One that is there twice, on and off, could mean either."""
    if value is not None and not isinstance(value, list):
        raise Malformed("plugins must be a list")
    found: dict[str, Mapping[str, Any]] = {}
    for plugin in value or []:
        name = plugin.get("id") if isinstance(plugin, Mapping) else None
        if not isinstance(name, str):
            raise Malformed("each of plugins must be an object with an id")
        if plugin.get("enabled") is not None and not isinstance(plugin["enabled"], bool):
            raise Malformed(f"enabled of the plugin {shown(name)} must be true or false")
        if name in found:
            raise Malformed(f"the plugin {shown(name)} is there twice")
        found[name] = plugin
    return {name: plugin for name, plugin in found.items() if _is_on(name, plugin)}


def _is_on(name: str, plugin: Mapping[str, Any]) -> bool:
    if plugin.get("enabled") is False:
        return False
    if name not in _FREE_PLUGINS | {"web", "file-parser"}:
        raise UnsupportedField(
            f"the plugin {shown(name)} is not supported: what it costs cannot be bounded", facts={"field": "plugins"}
        )
    return True


DEFAULT_WEB_RESULTS = 10
"""As many results are inside the fee of a search; more cost extra."""
MAX_WEB_RESULTS = 100


def _web_results(plugin: Mapping[str, Any] | None, tools: list[Mapping[str, Any]], options: Any) -> int | None:
    """The most results of a search, whoever makes it; `web_search` has its parameters beside the type, too."""
    if plugin is None and not tools and options is None:
        return None
    sources = [
        source
        for source in (plugin, options, *tools, *(tool.get("parameters") for tool in tools))
        if isinstance(source, Mapping)
    ]
    if any(source.get("x_search") is not None for source in sources):
        raise UnsupportedField(
            "x_search is not supported: it is billed by the post that it finds", facts={"field": "x_search"}
        )
    given = [source.get("max_results") for source in sources]
    return max((_results(value) for value in given if value is not None), default=DEFAULT_WEB_RESULTS)


def _results(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_WEB_RESULTS:
        raise Malformed(f"max_results of a web search must be a whole number from 1 to {MAX_WEB_RESULTS}")
    return value


def _parses_files_free(plugins: Mapping[str, Mapping[str, Any]]) -> bool:
    pdf = plugins.get("file-parser", {}).get("pdf")
    engine = pdf.get("engine") if isinstance(pdf, Mapping) else None
    return isinstance(engine, str) and engine in _FREE_PDF_ENGINES


def _server_tools(tools: Any) -> list[Mapping[str, Any]]:
    """Tools that OpenRouter runs, calling the model again with what they found. Raises UnsupportedField."""
    given = [tool for tool in tools if isinstance(tool, Mapping)] if isinstance(tools, list) else []
    found = [tool for tool in given if tool.get("type") != "function"]
    for tool in found:
        kind = tool.get("type")
        if not isinstance(kind, str) or kind not in _SERVER_TOOLS:
            raise UnsupportedField(
                f"tools of type {shown(str(kind))} are not supported: what they cost cannot be bounded",
                facts={"field": "tools"},
            )
    return found


def _check_tool_choice(choice: Any, tools: list[Mapping[str, Any]]) -> None:
    """A choice may name a server tool; it must not be the only place that does."""
    kind = choice.get("type") if isinstance(choice, Mapping) else None
    if kind not in (None, "function", "allowed_tools", *(tool.get("type") for tool in tools)):
        raise UnsupportedField(
            "tool_choice is supported only for tools that are in the request", facts={"field": "tool_choice"}
        )


def _allow(name: str, value: Any, allowed: list[Any], what: str) -> None:
    if value is not None and (isinstance(value, bool) or value not in allowed):
        raise UnsupportedField(f"{name} is supported only for {what}", facts={"field": name})


_TEXT_PARTS = frozenset({"text", "refusal", "reasoning", "thinking"})
_MEDIA_PARTS = frozenset({"image_url", "input_audio", "video_url", "input_video"})
"""Parts that are billed as prompt tokens, and images by the piece; a file may cost a fee for each of its pages."""


def media_parts(message: Mapping[str, Any], extras: Extras) -> int:
    """How many images, sounds and files: few bytes, many tokens."""
    content = message.get("content")
    if content is not None and not isinstance(content, str | list):
        raise Malformed("a message's content must be text or a list of parts")
    kinds = [_kind(part) for part in content] if isinstance(content, list) else []
    for kind in kinds:
        if kind == "file" and not extras.parses_files_free:
            raise UnsupportedField(
                "files are supported only with an engine that costs no fee a page: send "
                '"plugins": [{"id": "file-parser", "pdf": {"engine": "native"}}] (or cloudflare-ai)',
                facts={"field": "messages"},
            )
        if kind not in _TEXT_PARTS | _MEDIA_PARTS | {"file"}:
            raise UnsupportedField(
                f"content of type {shown(kind)} is not supported: its cost cannot be bounded",
                facts={"field": "messages"},
            )
    replayed = [value for name in ("images", "audio") for value in _as_list(message.get(name))]
    return len(replayed) + sum(kind not in _TEXT_PARTS for kind in kinds)


def _kind(part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str):
        raise Malformed("each part of a message's content must be an object with a type")
    return kind


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
