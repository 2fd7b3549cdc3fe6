"""What moves the price in a way that cannot be bounded yet is refused, by name. Null means absent, everywhere."""

from collections.abc import Mapping
from typing import Any

from .body import shown
from .errors import Malformed, UnsupportedField
from .money import decimal_of

_UNSUPPORTED = {
    "models": "a list of fallback models",
    "route": "routing between models",
    "preset": "a preset, which changes the request out of sight",
    "plugins": "plugins, which cost fees of their own",
    "web_search_options": "web search, which costs fees of its own",
    "deferred_tools": "tools that the router runs, which cost fees of their own",
    "speed": "a faster and dearer speed",
    "prediction": "predicted output, whose rejected tokens are billed too",
    "audio": "spoken output",
    "image_config": "images as output",
    "prompt": "a text completion; send messages",
}
_PROVIDER = frozenset({
    "order", "only", "ignore", "allow_fallbacks", "require_parameters", "data_collection", "zdr",
    "enforce_distillable_text", "quantizations", "sort", "preferred_min_throughput", "preferred_max_latency",
    "max_price",
})  # fmt: skip
"""Routing among endpoints that the price cap lets through. Not `options`: they may ask for a dearer tier."""
_TIERS = frozenset({"priority", "flex", "fast", "ultrafast", "scale"})


def refuse_what_cannot_be_bounded(values: Mapping[str, Any]) -> None:
    """Look at the top-level members of a request. Raises UnsupportedField, Malformed."""
    for name, what in _UNSUPPORTED.items():
        if values.get(name) not in (None, []):
            raise UnsupportedField(f"{name} is not supported: it asks for {what}", facts={"field": name})
    _allow("n", values.get("n"), [1], "one choice a call")
    _allow("service_tier", values.get("service_tier"), ["auto", "default"], "the default tier")
    _allow("modalities", values.get("modalities"), [["text"]], "text output")
    if isinstance(reasoning := values.get("reasoning"), Mapping):
        _allow("reasoning.mode", reasoning.get("mode"), ["standard", "default"], "the model that was asked for")
    provider = values.get("provider")
    if provider is not None:
        _check_provider(provider)


def _check_provider(provider: Any) -> None:
    if not isinstance(provider, Mapping):
        raise Malformed("provider must be an object")
    for name in provider.keys() - _PROVIDER:
        raise UnsupportedField(
            f"provider.{name[:60]} is not supported: it may change the price", facts={"field": "provider"}
        )
    for name in ("order", "only"):
        chosen = provider.get(name)
        if isinstance(chosen, list) and any(str(slug).lower().rpartition("/")[2] in _TIERS for slug in chosen):
            raise UnsupportedField(
                f"provider.{name} is supported only for the default tier", facts={"field": "provider"}
            )
    max_price = provider.get("max_price")
    if max_price is not None and not isinstance(max_price, Mapping):
        raise Malformed("provider.max_price must be an object")
    for name, value in (max_price or {}).items():
        if value is not None and ((usd := decimal_of(value)) is None or usd < 0):
            raise Malformed(f"provider.max_price.{name[:60]} must be a number of US dollars, zero or more")


def _allow(name: str, value: Any, allowed: list[Any], what: str) -> None:
    if value is not None and (isinstance(value, bool) or value not in allowed):
        raise UnsupportedField(f"{name} is supported only for {what}", facts={"field": name})


_TEXT_PARTS = frozenset({"text", "refusal", "reasoning", "thinking"})
_MEDIA_PARTS = frozenset({"image_url", "input_audio", "video_url", "input_video"})
"""Parts that are billed as prompt tokens and nothing else. A file is not: each of its pages may cost a fee."""


def media_parts(message: Mapping[str, Any]) -> int:
    """How many images and sounds: few bytes, many tokens."""
    content = message.get("content")
    if content is not None and not isinstance(content, str | list):
        raise Malformed("a message's content must be text or a list of parts")
    kinds = [_kind(part) for part in content] if isinstance(content, list) else []
    for kind in kinds:
        if kind not in _TEXT_PARTS | _MEDIA_PARTS:
            raise UnsupportedField(
                f"content of type {shown(kind)} is not supported: its cost cannot be bounded",
                facts={"field": "messages"},
            )
    replayed = [value for name in ("images", "audio") for value in _as_list(message.get(name))]
    return len(replayed) + sum(kind in _MEDIA_PARTS for kind in kinds)


def _kind(part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str):
        raise Malformed("each part of a message's content must be an object with a type")
    return kind


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
