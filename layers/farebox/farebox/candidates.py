"""Where a call could go: the models asked for, cheaper ones by the tenant's rules, others when those fail.

A candidate is what one call upstream may be served by, with its quote: usually one model; several where the client gave
a list, which OpenRouter tries in turn. A candidate that may not be used is dropped with the refusal that it would be
answered with if it were the only one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from .chat import ChatRequest, max_price_of
from .errors import ModelNotAllowed, ModelNotPriced, Refusal, UnsupportedField
from .policy import DEFAULT_WEB_RESULTS, Extras
from .pricing import Quote, Terms, quote
from .rates import FREE_ROUTER, MAX_ROUTER_PROMPT_TOKENS, ROUTERS, PricedModel, router, unpriced
from .rules import Rules, downgrades
from .variants import Variant, matches, variant

Price = Callable[[str], PricedModel]
"""A model's prices by its name in the catalogue. Raises ModelNotPriced, CatalogueUnavailable."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """`models` as they are sent, the first one first; `quote` as asked."""

    models: tuple[str, ...]
    quote: Quote

    @property
    def name(self) -> str:
        return self.models[0]

    @property
    def circuit(self) -> str:
        """Whose circuit breaks for it: the first model's, however it is routed."""
        return variant(self.name).base


@dataclass(frozen=True, slots=True)
class Dropped:
    """A candidate that may not be used, and why."""

    name: str
    refusal: Refusal


def candidate(request: ChatRequest, models: Sequence[str], rules: Rules, price: Price) -> Candidate:
    """Price what was asked for, or what replaces it. Raises ModelNotAllowed, ModelNotPriced, UnsupportedField."""
    variants = [variant(name) for name in models]
    for each in variants:
        _require_allowed(each, rules)
    terms = _terms(request.extras, variants, rules)
    priced = [found for each in variants for found in _priced(request, each, terms, price)]
    bases = {each.base for each in variants}
    for found in priced:
        _require_target_allowed(found, rules)
        if found.id not in bases and request.extras.is_rerouted:
            _require_sibling_allowed(found, rules)
    return Candidate(tuple(models), quote(request, priced, terms))


def cheaper(request: ChatRequest, asked: Candidate, rules: Rules, price: Price) -> Iterator[Candidate | Dropped]:
    """By the tenant's downgrade rules, in their order; what would not be cheaper is dropped."""
    for name in instead_of(asked, rules):
        yield _instead(request, name, asked, rules, price, is_cheaper=True)


def instead_of(asked: Candidate, rules: Rules) -> tuple[str, ...]:
    """The names of cheaper models: by the rule for the name as it was asked for, else for the model however routed."""
    return downgrades(rules.downgrades, asked.name) or downgrades(rules.downgrades, asked.circuit)


def fallbacks(request: ChatRequest, asked: Candidate, rules: Rules, price: Price) -> Iterator[Candidate | Dropped]:
    """The chain for when what was asked for fails. Free models have only free ones behind them."""
    for name in behind(asked, rules):
        yield _instead(request, name, asked, rules, price, is_cheaper=False)


def behind(asked: Candidate, rules: Rules) -> tuple[str, ...]:
    """The names of the chain, without those that are asked anyway."""
    return tuple(name for name in rules.fallbacks if name not in asked.models)


def _instead(
    request: ChatRequest, name: str, asked: Candidate, rules: Rules, price: Price, *, is_cheaper: bool
) -> Candidate | Dropped:
    try:
        found = candidate(request, (name,), rules, price)
        if asked.quote.amount_nanousd == 0 and found.quote.amount_nanousd > 0:
            raise ModelNotAllowed(f"{name} costs money, and a free model was asked for", facts={"model": name})
        if is_cheaper and found.quote.amount_nanousd >= asked.quote.amount_nanousd:
            raise ModelNotAllowed(f"{name} would not be cheaper", facts={"model": name})
    except Refusal as e:
        return Dropped(name, e)
    return found


def _priced(request: ChatRequest, each: Variant, terms: Terms, price: Price) -> Iterator[PricedModel]:
    """The model, and the siblings that serve it in some tiers and modes."""
    extras = request.extras
    if each.base in ROUTERS:
        if request.prompt_tokens_max > MAX_ROUTER_PROMPT_TOKENS:
            raise unpriced(
                each.base, f"is a router, whose prompts are bounded only up to {MAX_ROUTER_PROMPT_TOKENS} bytes"
            )
        yield router(each.base, max_price_of(request), request.max_tokens)
        return
    model = price(each.base)
    yield model
    names = {each.base, *model.also}
    if extras.is_pro and not each.base.endswith("-pro"):
        pro = list(_siblings(names, "-pro", price))
        if not pro:
            raise unpriced(f"{each.base}-pro", "is not in the catalogue of models")
        yield from pro
        names |= {name for sibling in pro for name in sibling.also}
    fast = list(_siblings(names, "-fast", price)) if terms.service_tiers - {"flex"} else []
    yield from fast
    if extras.required_tier and not fast and not model.sells(extras.service_tiers - {"flex"}):
        raise unpriced(each.name, f"has no price for the service tier {extras.required_tier}")


def require_known(name: str, price: Price) -> None:
    """Refuse a name without a price where it is configured, not where it is called. Raises ModelNotPriced."""
    base = variant(name).base
    if base not in ROUTERS:
        price(base)


def _siblings(names: Iterable[str], suffix: str, price: Price) -> Iterator[PricedModel]:
    """Siblings are named after any of a model's names: OpenRouter finds that of an alias's target too."""
    for name in sorted(names):
        try:
            yield price(f"{name}{suffix}")
        except ModelNotPriced:
            continue


def _terms(extras: Extras, variants: Sequence[Variant], rules: Rules) -> Terms:
    is_online = any(each.is_online for each in variants)
    web_results = DEFAULT_WEB_RESULTS if is_online and extras.web_results is None else extras.web_results
    if web_results is not None and rules.server_tools_nanousd == 0:
        raise UnsupportedField(
            "web search and server tools are not allowed: they cost fees that only an allowance bounds "
            "(server_tools in the tenant's rules, or FAREBOX_SERVER_TOOLS_USD)",
            facts={"field": "tools" if extras.has_server_tools else "plugins"},
        )
    return Terms(
        service_tiers=extras.service_tiers.union(*(each.service_tiers for each in variants)),
        web_results=web_results,
        has_server_tools=extras.has_server_tools,
        allowance_nanousd=0 if web_results is None else rules.server_tools_nanousd,
    )


def _require_allowed(each: Variant, rules: Rules) -> None:
    names = {each.name, each.base}
    alone = {f"{each.base}:{suffix}" for suffix in each.name.removeprefix(each.base).split(":")[1:]}
    if any(matches(name, rules.deny) for name in names | alone) or not any(
        matches(name, rules.allow) for name in names
    ):
        raise _not_allowed(each.name)
    if each.base in ROUTERS | {FREE_ROUTER} and (rules.deny or "*" not in rules.allow):
        raise ModelNotAllowed(
            f"{each.name} is a router, and may choose a model that is not allowed", facts={"model": each.name}
        )


def _require_target_allowed(found: PricedModel, rules: Rules) -> None:
    """Another name of the same model (an alias's target, the canonical one) must not get around the lists."""
    if any(matches(name, rules.deny) for name in found.also):
        raise _not_allowed(found.id)


def _require_sibling_allowed(found: PricedModel, rules: Rules) -> None:
    """A mode or a tier that is another model's needs that model to be allowed, too."""
    if not any(matches(name, rules.allow) for name in (found.id, *found.also)):
        raise _not_allowed(found.id)


def _not_allowed(name: str) -> ModelNotAllowed:
    return ModelNotAllowed(
        f"{name[:100]} is not among the models that this tenant may use", facts={"model": name[:100]}
    )
