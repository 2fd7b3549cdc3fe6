"""What the simulator says about the past: /generation, /key, /credits and its own control routes."""

from datetime import UTC, datetime
from decimal import Decimal

from local.bill import Books, Generation, usd

ABSENT = (
    "app_id",
    "cache_discount",
    "external_user",
    "moderation_latency",
    "native_tokens_completion_images",
    "num_fetches",
    "num_input_audio_prompt",
    "num_media_completion",
    "num_media_prompt",
    "num_search_results",
    "preset_id",
    "response_cache_source_id",
    "service_tier",
    "session_id",
    "upstream_id",
    "web_search_engine",
    "workspace_id",
)


def generation(record: Generation) -> dict[str, object]:
    """The record of one call with all the keys that OpenRouter's SDK requires, most of them null."""
    cost = usd(record.charge.cost_nanousd)
    milliseconds = round((record.ended_s - record.created_s) * 1000)
    return {
        **dict.fromkeys(ABSENT),
        "id": record.id,
        "request_id": record.id.replace("gen-", "req-", 1),
        "api_type": "completions",
        "model": record.model,
        "router": record.router,
        "provider_name": record.provider,
        "provider_responses": [
            {"provider_name": record.provider, "status": 200, "latency": milliseconds, "is_byok": record.charge.is_byok}
        ],
        "created_at": datetime.fromtimestamp(record.created_s, UTC).isoformat(timespec="milliseconds"),
        "origin": record.http_referer or "",
        "http_referer": record.http_referer,
        "user_agent": record.user_agent,
        "data_region": "global",
        "streamed": record.streamed,
        "cancelled": record.cancelled,
        "finish_reason": record.finish_reason,
        "native_finish_reason": record.finish_reason,
        "latency": milliseconds,
        "generation_time": milliseconds,
        "tokens_prompt": record.tokens.prompt,
        "tokens_completion": record.tokens.completion,
        "native_tokens_prompt": record.tokens.prompt,
        "native_tokens_completion": record.tokens.completion,
        "native_tokens_reasoning": record.tokens.reasoning,
        "native_tokens_cached": record.tokens.cached,
        "total_cost": cost,
        "usage": cost,
        "is_byok": record.charge.is_byok,
        "upstream_inference_cost": usd(record.charge.upstream_nanousd) if record.charge.is_byok else 0,
    }


def key(books: Books) -> dict[str, object]:
    """The inference key: no limit, and everything was used today."""
    charges = [record.charge for record in books.all()]
    used = usd(sum(charge.cost_nanousd for charge in charges))
    byok = usd(sum(charge.upstream_nanousd for charge in charges if charge.is_byok))
    windows = ("", "_daily", "_weekly", "_monthly")
    return {
        "label": "sk-or-v1-sim...ula",
        "limit": None,
        "limit_remaining": None,
        "limit_reset": None,
        "include_byok_in_limit": False,
        **{f"usage{window}": used for window in windows},
        **{f"byok_usage{window}": byok for window in windows},
        "is_free_tier": False,
        "is_management_key": False,
        "is_provisioning_key": False,
        "creator_user_id": "user_simulated",
        "organization_id": None,
        "workspace_id": None,
        "expires_at": None,
        "rate_limit": {"requests": -1, "interval": "10s", "note": "This field is deprecated and safe to ignore."},
        "budgets": [],
        "effective_budget": None,
        "free_model_daily_requests": {"limit": 1000, "used": 0, "remaining": 1000},
        "allowed_data_regions": ["global"],
    }


def credits_left(books: Books) -> dict[str, object]:
    """The account: a thousand dollars were bought once."""
    used = sum(record.charge.cost_nanousd for record in books.all())
    return {"total_credits": Decimal(1000), "total_usage": usd(used)}


def bill(books: Books) -> dict[str, object]:
    """The control route that tests compare the gateway's books with."""
    records = books.all()
    total = sum(record.charge.billed_nanousd for record in records)
    return {"total_nanousd": total, "generations": len(records)}


def line(record: Generation) -> dict[str, object]:
    """One call on the bill."""
    return {
        "id": record.id,
        "model": record.model,
        "api_key": record.api_key_suffix,
        "prompt_tokens": record.tokens.prompt,
        "completion_tokens": record.tokens.completion,
        "cost_nanousd": record.charge.billed_nanousd,
        "cancelled": record.cancelled,
    }
