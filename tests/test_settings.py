"""Settings are right, or the start ends with one sentence that names the variable."""

import re
from decimal import Decimal

import pytest

from farebox.ledger import Limits
from farebox.rules import Downgrade, Rules
from farebox.settings import NAMES, Settings, SettingsError, settings_from

KEYS = {"FAREBOX_GATEWAY_KEY": "gateway", "FAREBOX_ADMIN_KEY": "admin"}


def found(**variables: str) -> Settings:
    return settings_from({**KEYS, **variables})


def usd(amount: int | str) -> int:
    return int(Decimal(amount) * 10**9)


def refusal(environment: dict[str, str]) -> str:
    with pytest.raises(SettingsError) as refused:
        settings_from(environment)
    return str(refused.value)


def test_two_keys_are_enough_to_start() -> None:
    settings = found()
    assert settings.openrouter_base_url == "https://openrouter.ai/api/v1"
    assert settings.tenant("default").limits == Limits(usd(10), usd(100), version=0)
    assert settings.tenant("default").time_zone == "UTC"
    assert settings.primary_model is None


@pytest.mark.parametrize("name", sorted(KEYS))
@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_gateway_without_a_key_does_not_start(name: str, value: str | None) -> None:
    environment = {key: given for key, given in {**KEYS, name: value}.items() if given is not None}
    assert refusal(environment) == f"{name} is not set"


@pytest.mark.parametrize("name", sorted(set(NAMES) - KEYS.keys()))
@pytest.mark.parametrize("value", ["", " ", "\t\n"])
def test_an_empty_variable_counts_as_absent(name: str, value: str) -> None:
    assert found(**{name: value}) == found()


def test_variables_of_others_are_not_read() -> None:
    assert found(PATH="/bin", AWS_REGION="eu-central-1", MODEL_CONFIG="x", TENANT="y") == found()


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("OPENROUTER_API_KEY", "sk-or-v1-x", "sk-or-v1-x"),
        ("OPENROUTER_BASE_URL", "http://127.0.0.1:8788/api/v1", "http://127.0.0.1:8788/api/v1"),
        ("PRIMARY_MODEL", "acme/m1", "acme/m1"),
        ("DEFAULT_DAILY_BUDGET", "0.05", Decimal("0.05")),
        ("DEFAULT_MONTHLY_BUDGET", "10000000", Decimal(10_000_000)),
        ("FAREBOX_HOLD_FRACTION", "1", Decimal(1)),
        ("FAREBOX_MIN_OUTPUT_TOKENS", "16", 16),
        ("FAREBOX_TIME_ZONE", "Asia/Kathmandu", "Asia/Kathmandu"),
        ("FAREBOX_TABLE", "books", "books"),
        ("AUTO_CREATE_TENANTS", "false", False),
        ("AUTO_CREATE_TENANTS", "TRUE", True),
        ("OTEL_SERVICE_NAME", "costs", "costs"),
        ("FALLBACK_MODEL_CHAIN", "acme/m1", ["acme/m1"]),
        ("FALLBACK_MODEL_CHAIN", " acme/m1 ,acme/m2:free", ["acme/m1", "acme/m2:free"]),
        ("FALLBACK_MODEL_CHAIN", '["acme/m1", "acme/m2"]', ["acme/m1", "acme/m2"]),
        ("FAREBOX_ALLOWED_MODELS", "openai/*,*:free", ["openai/*", "*:free"]),
        ("FAREBOX_ALLOWED_MODELS", "[]", []),
        ("FAREBOX_DENIED_MODELS", '["*-pro"]', ["*-pro"]),
        ("FAREBOX_DOWNGRADE_RULES", '[{"from": "a/*", "to": "b/c"}]', [{"from": "a/*", "to": "b/c"}]),
        ("FAREBOX_REQUEST_CAP_USD", "0.5", Decimal("0.5")),
        ("FAREBOX_REQUEST_CAP_USD", "null", None),
        ("FAREBOX_SERVER_TOOLS_USD", "0.05", Decimal("0.05")),
        ("FAREBOX_MAX_IN_FLIGHT", "2000", 2000),
        ("FAREBOX_WARN_AT", "0.5", Decimal("0.5")),
        ("FAREBOX_DEGRADE_AT", "1", 1),
        ("FAREBOX_ATTEMPT_TIMEOUT_S", "900", 900),
    ],
)
def test_a_variable_is_read_under_its_own_name(name: str, value: str, read: object) -> None:
    assert getattr(found(**{name: value}), name.lower()) == read


# Budgets.


@pytest.mark.parametrize(
    ("entry", "day", "month"),
    [
        ('{"daily": 5, "monthly": 50}', "5", "50"),
        ('{"daily_usd": 5, "monthly_usd": 50}', "5", "50"),
        ('{"daily_budget": "0.5", "monthly_budget": 2e1}', "0.5", "20"),
        ('{"daily": 5}', "5", "100"),
        ('{"monthly": 50}', "10", "50"),
        ("{}", "10", "100"),
        ('{"daily": 0, "monthly": null}', "0", "100"),
        ('{"daily": 0.000000001}', "0.000000001", "100"),
    ],
)
def test_a_tenants_budget_leaves_to_the_default_what_it_does_not_say(entry: str, day: str, month: str) -> None:
    settings = found(TENANT_BUDGETS=f'{{"acme": {entry}}}')
    assert settings.tenant("acme").limits == Limits(usd(day), usd(month), version=0)
    assert settings.tenant("other").limits == Limits(usd(10), usd(100), version=0)


def test_a_tenant_has_its_name_and_the_time_zone() -> None:
    tenant = found(FAREBOX_TIME_ZONE="Pacific/Chatham").tenant("acme")
    assert (tenant.name, tenant.time_zone) == ("acme", "Pacific/Chatham")


@pytest.mark.parametrize("name", ["DEFAULT_DAILY_BUDGET", "DEFAULT_MONTHLY_BUDGET"])
@pytest.mark.parametrize(
    "value",
    ["-1", "-0.000000001", "10000000.01", "1e12", "1e999999", "1e9999999", "1e99999999999999999999", "NaN", "-NaN",
     "sNaN", "Infinity", "-Infinity", "ten", "$10", "10 USD", "10,5", "true", "[]"],
)  # fmt: skip
def test_a_default_budget_is_an_amount_of_usd(name: str, value: str) -> None:
    assert refusal({**KEYS, name: value}) == f"{name}: must be US dollars from 0 to 10,000,000, not {value!r}"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        pytest.param("acme=5", "must be JSON like", id="not-json"),
        pytest.param('{"acme": {"daily": 5}', "must be JSON like", id="cut"),
        pytest.param("{'acme': {}}", "must be JSON like", id="single-quotes"),
        pytest.param('{"acme": {"daily": NaN}}', "NaN is not a JSON number", id="nan"),
        pytest.param('{"acme": {"daily": -Infinity}}', "-Infinity is not a JSON number", id="infinity"),
        pytest.param('{"acme": {"daily": 1e99999999999999999999}}', "must be JSON like", id="exponent-beyond-decimal"),
        pytest.param("[" * 100_000, "nested too deeply", id="too-deep"),
        pytest.param('["acme"]', "must be a JSON object", id="list"),
        pytest.param("null", "must be a JSON object", id="null"),
        pytest.param("5", "must be a JSON object", id="number"),
        pytest.param('{"acme": 5}', "TENANT_BUDGETS[acme]", id="entry-is-a-number"),
        pytest.param('{"acme": null}', "TENANT_BUDGETS[acme]", id="entry-is-null"),
        pytest.param('{"acme": {"daily": -1}}', "TENANT_BUDGETS[acme][daily]: must be US dollars", id="negative"),
        pytest.param('{"acme": {"monthly": 10000001}}', "TENANT_BUDGETS[acme][monthly]: must be US dollars", id="huge"),
        pytest.param('{"acme": {"daily": 1e9999999}}', "must be JSON like", id="beyond-all-numbers"),
        pytest.param('{"acme": {"daily": "1e9999999"}}', "TENANT_BUDGETS[acme][daily]: must be US dollars", id="huger"),
        pytest.param('{"acme": {"daily": true}}', "TENANT_BUDGETS[acme][daily]: must be US dollars", id="boolean"),
        pytest.param('{"acme": {"daily": "5 USD"}}', "TENANT_BUDGETS[acme][daily]: must be US dollars", id="words"),
        pytest.param(
            '{"acme": {"daily": [5]}}', "TENANT_BUDGETS[acme][daily]: must be US dollars", id="list-as-amount"
        ),
        pytest.param('{"acme": {"dialy": 5}}', "TENANT_BUDGETS[acme][dialy]", id="unknown-key"),
        pytest.param('{"acme": {"daily": 5, "daily_usd": 6}}', "TENANT_BUDGETS[acme][daily_usd]", id="said-twice"),
        pytest.param('{"acme": {"daily": 1}, "acme": {"daily": 2}}', "a key appears twice", id="tenant-twice"),
        pytest.param('{"acme": {"daily": 1, "daily": 2}}', "a key appears twice", id="key-twice"),
        pytest.param('{"acme inc": {"daily": 5}}', '"acme inc"', id="bad-name"),
        pytest.param('{"": {"daily": 5}}', '""', id="empty-name"),
        pytest.param('{"a\\nb": {}}', '"a\\nb"', id="newline-in-a-name"),
        pytest.param('{"%s": {}}' % ("a" * 65), "a" * 65, id="long-name"),
    ],
)
def test_tenant_budgets_that_are_wrong_are_told_where(value: str, says: str) -> None:
    sentence = refusal({**KEYS, "TENANT_BUDGETS": value})
    assert sentence.startswith("TENANT_BUDGETS")
    assert says in sentence
    assert "\n" not in sentence
    assert len(sentence) < 300


# Rules: defaults for all tenants, and a tenant's own in TENANT_BUDGETS.


def test_without_any_rules_all_models_are_allowed_none_stands_in_and_tools_that_cost_fees_are_not() -> None:
    assert found().rules == found().tenant("acme").rules == Rules()


def test_the_default_rules_are_those_of_the_settings() -> None:
    settings = found(
        FALLBACK_MODEL_CHAIN="a/1,a/2",
        FAREBOX_DOWNGRADE_RULES='[{"from": ["a/1", "b/*"], "to": "a/2"}]',
        FAREBOX_ALLOWED_MODELS="a/*, b/*",
        FAREBOX_DENIED_MODELS="*-pro",
        FAREBOX_REQUEST_CAP_USD="0.5",
        FAREBOX_SERVER_TOOLS_USD="0.05",
        FAREBOX_MAX_IN_FLIGHT="7",
        FAREBOX_WARN_AT="0.5",
        FAREBOX_DEGRADE_AT="0.6",
    )
    rules = Rules(
        request_nanousd=500_000_000,
        in_flight=7,
        warn_at=Decimal("0.5"),
        degrade_at=Decimal("0.6"),
        allow=("a/*", "b/*"),
        deny=("*-pro",),
        downgrades=(Downgrade(("a/1", "b/*"), "a/2"),),
        fallbacks=("a/1", "a/2"),
        server_tools_nanousd=50_000_000,
    )
    assert settings.rules == settings.tenant("acme").rules == rules
    assert settings.tenant("acme").limits.in_flight == 7


def test_a_tenants_rules_are_laid_over_the_default_ones() -> None:
    entry = '{"daily": 5, "per_request": 0.25, "in_flight": 3, "deny": [], "fallback": ["a/3"], "allow": null}'
    settings = found(
        TENANT_BUDGETS=f'{{"acme": {entry}}}',
        FAREBOX_DENIED_MODELS="*-pro",
        FAREBOX_ALLOWED_MODELS="a/*",
        FALLBACK_MODEL_CHAIN="a/1",
        FAREBOX_MAX_IN_FLIGHT="9",
    )
    acme = settings.tenant("acme")
    assert acme.rules == Rules(request_nanousd=250_000_000, in_flight=3, fallbacks=("a/3",), allow=("a/*",))
    assert acme.limits == Limits(usd(5), usd(100), version=0, in_flight=3)
    assert settings.tenant("other").rules == Rules(deny=("*-pro",), allow=("a/*",), fallbacks=("a/1",), in_flight=9)


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ('{"per_request": -1}', "[per_request]: must be US dollars"),
        ('{"in_flight": 0}', "[in_flight]: must be a whole number"),
        ('{"warn_at": 80}', "[warn_at]: must be above 0"),
        ('{"warn_at": 0.9, "degrade_at": 0.8}', ": warn_at (0.9) must not be above degrade_at (0.8)"),
        ('{"degrade_at": 0.7}', ": warn_at (0.8) must not be above degrade_at (0.7)"),
        ('{"allow": "openai/*"}', "[allow]: must be a list"),
        ('{"fallback": ["@preset/x"]}', "[fallback]: it is not supported with a preset"),
        (
            '{"downgrade": [{"from": "A", "to": "B"}, {"from": "B", "to": "A"}]}',
            "[downgrade]: the rules lead in a circle",
        ),
        ('{"server_tools": "a lot"}', "[server_tools]: must be US dollars"),
        ('{"fallbacks": []}', "[fallbacks]: only per_request, "),
    ],
)
def test_a_tenants_rules_that_are_wrong_are_told_where(rules: str, says: str) -> None:
    sentence = refusal({**KEYS, "TENANT_BUDGETS": f'{{"other": {{}}, "acme": {rules}}}'})
    assert sentence.startswith(f"TENANT_BUDGETS[acme]{says}")
    assert "\n" not in sentence


def test_thresholds_are_compared_with_the_defaults_that_the_settings_have() -> None:
    one = '{"acme": {"warn_at": 0.95}}'
    assert found(TENANT_BUDGETS=one, FAREBOX_DEGRADE_AT="1").tenant("acme").rules.warn_at == Decimal("0.95")
    assert refusal({**KEYS, "TENANT_BUDGETS": one}).startswith("TENANT_BUDGETS[acme]: warn_at (0.95)")
    other = {"TENANT_BUDGETS": '{"acme": {"degrade_at": 0.85}}', "FAREBOX_WARN_AT": "0.88"}
    assert refusal({**KEYS, **other}).startswith("TENANT_BUDGETS[acme]: warn_at (0.88)")


def test_default_thresholds_are_compared_with_each_other() -> None:
    assert found(FAREBOX_WARN_AT="0.95", FAREBOX_DEGRADE_AT="0.95").rules.warn_at == Decimal("0.95")
    assert refusal({**KEYS, "FAREBOX_WARN_AT": "0.5", "FAREBOX_DEGRADE_AT": "0.4"}) == (
        "FAREBOX_WARN_AT and FAREBOX_DEGRADE_AT: warn_at (0.5) must not be above degrade_at (0.4)"
    )


# The rest.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUTO_CREATE_TENANTS", "yes"),
        ("OPENROUTER_BASE_URL", "openrouter.ai/api/v1"),
        ("OPENROUTER_BASE_URL", "ftp://openrouter.ai"),
        ("FAREBOX_TIME_ZONE", "Mars/Olympus"),
        ("FAREBOX_TIME_ZONE", "UTC+1"),
        ("FAREBOX_TIME_ZONE", "../etc/passwd"),
        ("FAREBOX_TIME_ZONE", "/etc/passwd"),
        ("FAREBOX_TIME_ZONE", "Europe"),
        ("FAREBOX_TIME_ZONE", "a\x00b"),
        ("FAREBOX_HOLD_FRACTION", "0"),
        ("FAREBOX_HOLD_FRACTION", "1.01"),
        ("FAREBOX_HOLD_FRACTION", "-1"),
        ("FAREBOX_HOLD_FRACTION", "NaN"),
        ("FAREBOX_HOLD_FRACTION", "half"),
        ("FAREBOX_MIN_OUTPUT_TOKENS", "15"),
        ("FAREBOX_MIN_OUTPUT_TOKENS", "256.5"),
        ("FAREBOX_PRICE_TTL_S", "0"),
        ("FAREBOX_ATTEMPT_TIMEOUT_S", "901"),
        ("FALLBACK_MODEL_CHAIN", "acme/m1,,acme/m2"),
        ("FALLBACK_MODEL_CHAIN", "acme/m1,"),
        ("FALLBACK_MODEL_CHAIN", ","),
        ("FALLBACK_MODEL_CHAIN", "@preset/cheap"),
        ("FALLBACK_MODEL_CHAIN", '["acme/m1"'),
        ("FALLBACK_MODEL_CHAIN", "[5]"),
        ("FALLBACK_MODEL_CHAIN", ",".join(["acme/m1"] * 51)),
        ("FAREBOX_ALLOWED_MODELS", "openai/*,,"),
        ("FAREBOX_ALLOWED_MODELS", "[" * 100_000),
        ("FAREBOX_DENIED_MODELS", "x" * 201),
        ("FAREBOX_DENIED_MODELS", '["a\\nb"]'),
        ("FAREBOX_DOWNGRADE_RULES", "a/* -> b/c"),
        ("FAREBOX_DOWNGRADE_RULES", '{"from": "a/*", "to": "b/c"}'),
        ("FAREBOX_DOWNGRADE_RULES", '[{"from": "a/*"}]'),
        ("FAREBOX_DOWNGRADE_RULES", '[{"from": "a/1", "to": "a/2"}, {"from": "a/2", "to": "a/1"}]'),
        ("FAREBOX_DOWNGRADE_RULES", '[{"from": "*", "to": "a/2"}, {"from": "a/2", "to": "a/1"}]'),
        ("FAREBOX_DOWNGRADE_RULES", '[{"from": "a/1", "to": "@preset/x"}]'),
        ("FAREBOX_REQUEST_CAP_USD", "-0.01"),
        ("FAREBOX_REQUEST_CAP_USD", "10000001"),
        ("FAREBOX_REQUEST_CAP_USD", "1e9999999"),
        ("FAREBOX_REQUEST_CAP_USD", "NaN"),
        ("FAREBOX_REQUEST_CAP_USD", "0,5"),
        ("FAREBOX_SERVER_TOOLS_USD", "Infinity"),
        ("FAREBOX_SERVER_TOOLS_USD", "five"),
        ("FAREBOX_MAX_IN_FLIGHT", "0"),
        ("FAREBOX_MAX_IN_FLIGHT", "2001"),
        ("FAREBOX_MAX_IN_FLIGHT", "1.5"),
        ("FAREBOX_WARN_AT", "80"),
        ("FAREBOX_WARN_AT", "80%"),
        ("FAREBOX_WARN_AT", "0"),
        ("FAREBOX_WARN_AT", "0.95"),
        ("FAREBOX_DEGRADE_AT", "1.01"),
        ("FAREBOX_DEGRADE_AT", "true"),
        ("FAREBOX_CALL_DEADLINE_S", "901"),
        ("FAREBOX_CALL_DEADLINE_S", "0"),
    ],
)
def test_a_value_that_is_wrong_ends_the_start_with_a_sentence_that_names_it(name: str, value: str) -> None:
    sentence = refusal({**KEYS, name: value})
    assert re.match(f"{name}( and FAREBOX_DEGRADE_AT)?(:| must)", sentence)
    assert len(name) + 10 < len(sentence) < 300
    assert "\n" not in sentence


def test_no_sentence_shows_a_key() -> None:
    secret = "sk-or-v1-secret"
    assert secret not in refusal({**KEYS, "OPENROUTER_API_KEY": secret, "FAREBOX_TIME_ZONE": "Mars"})
    assert secret not in refusal({"FAREBOX_GATEWAY_KEY": secret})
