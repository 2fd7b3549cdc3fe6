"""Rules about template.yaml, a few lines each: where code must say the same, and what AWS's own lint does not see."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]

from farebox import routes, spans, vault
from farebox.admin_routes import app
from farebox.settings import Settings, settings_from
from local.child import ROOT
from local.gateway import FUNCTION_TIMEOUT_S
from tests.conftest import connected, new_table
from tests.test_guards import PACKAGE, imports_of

TEXT = (ROOT / "template.yaml").read_text()
TEMPLATE = yaml_parse(TEXT)
PARAMETERS: dict[str, Any] = TEMPLATE["Parameters"]
RESOURCES: dict[str, Any] = TEMPLATE["Resources"]
SAM = Path(sys.executable).parent / "sam"

NOT_IN_SETTINGS = {
    "AWS_LAMBDA_EXEC_WRAPPER": "Lambda reads it",
    "FAREBOX_KEYS_VERSION": "nobody reads it: a changed variable makes Lambda start the function anew",
}
NOT_IN_TEMPLATE = {
    "FAREBOX_CALL_DEADLINE_S": "the function's own time ends a call there, and the setting's default is that time",
}


def of_type(kind: str) -> dict[str, Any]:
    """Resources of a type: their properties by name."""
    return {name: resource["Properties"] for name, resource in RESOURCES.items() if resource["Type"] == f"AWS::{kind}"}


FUNCTIONS = of_type("Serverless::Function")
ALARMS = of_type("CloudWatch::Alarm")
BODY = of_type("Serverless::Api")["Api"]["DefinitionBody"]


def entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at every depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from entries(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from entries(inner)


def strings(value: Any) -> set[str]:
    if isinstance(value, str):
        return {value}
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return set[str]().union(*map(strings, inner))


def named(value: Any) -> set[str]:
    """Every parameter and resource that is referred to."""
    refs = {inner for key, inner in entries(value) if key == "Ref"}
    attributes = {inner[0] for key, inner in entries(value) if key == "Fn::GetAtt"}
    texts = [inner for key, inner in entries(value) if key == "Fn::Sub"]
    return refs | attributes | {name for text in texts for name in re.findall(r"\$\{([\w:]+)[^}]*\}", text)}


# Variables.


def variables(function: str) -> dict[str, Any]:
    shared: dict[str, Any] = TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]
    return {**shared, **FUNCTIONS[function]["Environment"]["Variables"]}


def test_every_variable_that_code_reads_is_set_and_no_other() -> None:
    read = {name.upper() for name in Settings.__annotations__} - NOT_IN_TEMPLATE.keys()
    secrets = {f"{name}_SECRET" for name in vault.NAMES}
    assert variables("Proxy").keys() == (read - set(vault.NAMES)) | secrets | NOT_IN_SETTINGS.keys()


def test_every_variable_of_a_secret_is_the_arn_of_a_secret_of_this_stack() -> None:
    named_secrets = [variables("Proxy")[f"{name}_SECRET"]["Fn::GetAtt"] for name in vault.NAMES]
    assert sorted(named_secrets) == sorted([name, "Id"] for name in of_type("SecretsManager::Secret"))


def test_the_defaults_of_parameters_are_those_of_settings() -> None:
    keys = {"FAREBOX_GATEWAY_KEY": "k", "FAREBOX_ADMIN_KEY": "k", "FAREBOX_TABLE": "t"}
    plain = {name.upper() for name in Settings.__annotations__} - {*vault.NAMES, *NOT_IN_TEMPLATE, "FAREBOX_TABLE"}
    defaults = {name: str(PARAMETERS[variables("Proxy")[name]["Ref"]]["Default"]) for name in plain}
    assert settings_from({**defaults, **keys}) == settings_from(keys)


# Policies.


def modules_of(handler: Path) -> set[str]:
    """Modules of the package that a function imports, and those that they import."""
    tree = ast.walk(ast.parse(handler.read_text()))
    found = {str(node.module).removeprefix("farebox.") for node in tree
             if isinstance(node, ast.ImportFrom) and str(node.module).startswith("farebox.")}  # fmt: skip
    while more := {name for module in found for name in imports_of(PACKAGE / f"{module}.py")} - found:
        found |= more
    return found


def attributes(tree: ast.AST, *owners: str) -> set[str]:
    """Names read from something called `owners`, like `reserve` in `gate.store.reserve`."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {node.attr for node in found if ast.unparse(node.value).rpartition(".")[2] in owners}


def actions(modules: set[str]) -> set[str]:
    """IAM actions of the calls that modules make, through methods of those that know the table and by themselves."""
    trees = {module: ast.parse((PACKAGE / f"{module}.py").read_text()) for module in modules}
    calls = set[str]().union(*(calls_of(trees, module) for module in TABLE & trees.keys()))
    calls = {"query" if call == "get_paginator" else call for call in calls}  # they page through queries only
    assert "get_waiter" not in calls, "name the action that it calls, then extend this test"
    secret = attributes(trees["vault"], "client")
    return {f"dynamodb:{camel(call)}" for call in calls} | {f"secretsmanager:{camel(call)}" for call in secret}


TABLE = {"store", "rollups", "office"}
"""Modules with a class of the same name, whose methods are what others do with the table."""


SHARED = {"batch": "batch_get_item", "query": "get_paginator"}
"""Functions of store.py that several of them call, and what these call."""


def calls_of(trees: dict[str, ast.Module], module: str) -> set[str]:
    """Calls of DynamoDB's client in the methods of a module that others use, and in those that these use."""
    methods = {node.name: node for node in ast.walk(trees[module]) if isinstance(node, ast.FunctionDef)}
    others = (tree for name, tree in trees.items() if name != module)
    used = set[str]().union(*(attributes(tree, module, f"_{module}") for tree in others)) & methods.keys()
    while more := set[str]().union(*(attributes(methods[name], "self") for name in used)) & methods.keys() - used:
        used |= more
    shared = {SHARED[node.id] for name in used for node in ast.walk(methods[name])
              if isinstance(node, ast.Name) and node.id in SHARED}  # fmt: skip
    return shared | {call for name in used for call in attributes(methods[name], "_client")}


def camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_action_that_code_needs_is_allowed_and_no_other(function: str) -> None:
    statements = [statement for policy in FUNCTIONS[function]["Policies"] for statement in policy["Statement"]]
    allowed = [statement["Action"] for statement in statements if statement["Effect"] == "Allow"]
    handler = ROOT / FUNCTIONS[function]["CodeUri"] / "handler.py"
    assert strings(allowed) == actions(modules_of(handler))


def test_no_wildcard_is_in_a_policy_without_a_written_reason() -> None:
    lines = TEXT.splitlines()
    guarded = {"Resource", "Action", "NotAction", "NotResource", "Principal", "SourceArn"}
    wild = {text for key, value in entries(RESOURCES) if key in guarded for text in strings(value) if "*" in text}
    for text in wild:
        found = [number for number, line in enumerate(lines) if text in line]
        assert found
        assert all("# Wildcard: " in lines[number] + lines[number - 1] for number in found), text


# References.


def test_every_reference_names_something_that_exists() -> None:
    known = PARAMETERS.keys() | RESOURCES.keys()
    assert {name for name in named(TEMPLATE) if not name.startswith("AWS::")} <= known
    conditions = {inner for key, inner in entries(RESOURCES) if key == "Condition" and isinstance(inner, str)}
    conditions |= {inner[0] for key, inner in entries(TEMPLATE) if key == "Fn::If"}
    assert conditions == TEMPLATE["Conditions"].keys()


def test_every_parameter_is_used_described_and_in_a_group() -> None:
    groups = TEMPLATE["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    in_groups = [name for group in groups for name in group["Parameters"]]
    assert sorted(in_groups) == sorted(PARAMETERS)
    assert PARAMETERS.keys() <= named(TEMPLATE)
    assert [name for name, parameter in PARAMETERS.items() if not parameter.get("Description")] == []


def test_every_resource_says_why_it_is_there() -> None:
    lines = TEXT.partition("\nResources:\n")[2].splitlines()
    assert [name for name in RESOURCES if not lines[lines.index(f"  {name}:") - 1].startswith("  #")] == []


def test_no_alias_is_left_on_old_code_when_only_a_layer_changes() -> None:
    for properties in (*FUNCTIONS.values(), TEMPLATE["Globals"]["Function"]):
        assert "AutoPublishAlias" not in properties or "AutoPublishCodeSha256" in properties


# Routes and streaming.


def operations() -> dict[tuple[str, str], Any]:
    """By path and method."""
    return {(path, method): made for path, methods in BODY["paths"].items() for method, made in methods.items()}


def test_every_route_of_the_program_is_a_path_of_the_api() -> None:
    wanted = {(path, method) for path, methods in routes._ROUTES.items() for method in methods}
    for path, method in wanted | {(f"{routes.USAGE}{{tenant}}", "GET")}:
        below, name = path.removeprefix("/api"), method.lower()
        proxied = below.startswith("/v1/") and ("/v1/{proxy+}", name) in operations()
        assert (below, name) in operations() or proxied, (method, path)


def test_wrapper_and_every_integration_follow_one_condition() -> None:
    """A streamed answer behind a buffered integration is a 502, and so is the reverse."""
    integrations = [
        operation["x-amazon-apigateway-integration"]
        for (path, _), operation in operations().items()
        if not path.startswith("/admin")
    ]
    assert all(integration == integrations[0] for integration in integrations)
    condition, wrapper, otherwise = variables("Proxy")["AWS_LAMBDA_EXEC_WRAPPER"]["Fn::If"]
    assert otherwise == {"Ref": "AWS::NoValue"}
    assert integrations[0]["responseTransferMode"] == {"Fn::If": [condition, "STREAM", "BUFFERED"]}
    uri = integrations[0]["uri"]["Fn::If"]
    assert uri[0] == condition
    assert uri[1]["Fn::Sub"].endswith("/2021-11-15/functions/${Proxy.Arn}/response-streaming-invocations")
    assert uri[2]["Fn::Sub"].endswith("/2015-03-31/functions/${Proxy.Arn}/invocations")
    assert integrations[0]["timeoutInMillis"] == {"Fn::If": [condition, FUNCTIONS["Proxy"]["Timeout"] * 1000, 29000]}
    assert of_type("Serverless::Api")["Api"]["AlwaysDeploy"] is True  # else the stage keeps the other integration
    assert os.access(ROOT / "layers" / "runtime" / Path(wrapper).name, os.X_OK)


def test_every_path_of_the_admin_follows_one_condition_and_reaches_its_function_in_one_piece() -> None:
    found = {path: made for (path, _), made in operations().items() if path.startswith("/admin")}
    assert found.keys() == {"/admin", "/admin/{proxy+}"}
    methods = {method for path, method in operations() if path == "/admin/{proxy+}"}
    assert methods == {route.method.lower() for route in (*app._static_routes, *app._dynamic_routes)}
    for operation in (made for (path, _), made in operations().items() if path.startswith("/admin")):
        assert operation["x-amazon-apigateway-auth"] == {"type": {"Fn::If": ["AdminSigns", "AWS_IAM", "NONE"]}}
        integration = operation["x-amazon-apigateway-integration"]
        assert integration["uri"]["Fn::Sub"].endswith("/2015-03-31/functions/${Admin.Arn}/invocations")
        assert "responseTransferMode" not in integration
    assert TEMPLATE["Conditions"]["AdminSigns"] == {"Fn::Equals": [{"Ref": "AdminAuth"}, "iam"]}
    assert variables("Admin")["FAREBOX_ADMIN_AUTH"] == {"Ref": "AdminAuth"}


def test_the_local_gateway_has_the_time_of_the_function() -> None:
    assert FUNCTIONS["Proxy"]["Timeout"] == FUNCTION_TIMEOUT_S


def test_what_api_gateway_answers_by_itself_has_the_shape_of_our_errors() -> None:
    for answer in BODY["x-amazon-apigateway-gateway-responses"].values():
        error = yaml_parse(answer["responseTemplates"]["application/json"])["error"]
        assert error.keys() == {"code", "message", "type", "metadata"}
        assert str(error["code"]) == answer.get("statusCode", str(error["code"]))
        assert error["metadata"].keys() == {"reason"}


# The table.


def test_the_table_is_the_one_that_local_stores_make(embedded_url: str) -> None:
    name = new_table(embedded_url)
    made: Any = connected(embedded_url).describe_table(TableName=name)["Table"]
    table = RESOURCES["Table"]["Properties"]
    assert table["KeySchema"] == made["KeySchema"]
    assert table["AttributeDefinitions"] == made["AttributeDefinitions"]
    assert table["BillingMode"] == made["BillingModeSummary"]["BillingMode"]


def test_the_table_outlives_the_stack_and_can_be_put_back() -> None:
    table = RESOURCES["Table"]
    assert (table["DeletionPolicy"], table["UpdateReplacePolicy"]) == ("Retain", "Retain")
    assert table["Properties"]["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert table["Properties"]["SSESpecification"] == {"SSEEnabled": True}


def test_the_table_s_comment_and_attribute_for_expiry_are_those_of_spans() -> None:
    assert f"SPANS#<hour>#<0 .. {spans.SHARDS - 1}>" in TEXT
    expires = RESOURCES["Table"]["Properties"]["TimeToLiveSpecification"]["AttributeName"]
    assert f'"{expires}": ' in (PACKAGE / "spans.py").read_text()


# Alarms, keys, layers.


@pytest.mark.parametrize("alarm", ALARMS.values(), ids=ALARMS)
def test_every_alarm_is_told_and_is_silent_without_traffic(alarm: dict[str, Any]) -> None:
    assert alarm["AlarmActions"] == alarm["OKActions"] == [{"Ref": "Alerts"}]
    assert alarm["TreatMissingData"] == "notBreaching"
    assert alarm["AlarmDescription"]


def test_generated_keys_need_no_quotes_and_cannot_be_guessed() -> None:
    rules = [secret["GenerateSecretString"] for secret in of_type("SecretsManager::Secret").values()
             if "GenerateSecretString" in secret]  # fmt: skip
    assert len(rules) == 2
    assert all(rule["ExcludePunctuation"] is True and rule["PasswordLength"] >= 43 for rule in rules)


def test_the_key_of_openrouter_is_hidden_and_goes_into_its_secret_only() -> None:
    assert PARAMETERS["OpenRouterApiKey"]["NoEcho"] is True
    assert TEXT.count("OpenRouterApiKey") == 3  # its group, itself, its secret


def test_the_layer_keeps_the_services_that_code_calls() -> None:
    kept = re.findall(r"^SERVICES .= ([\w ]+)", (ROOT / "layers/dependencies/Makefile").read_text(), re.MULTILINE)
    source = "".join(path.read_text() for path in PACKAGE.glob("*.py") if not path.name.startswith("cli"))
    called = set(re.findall(r'client\("(\w+)"', source))
    assert {"dynamodb", "secretsmanager"} <= called <= set(" ".join(kept).split())


def test_the_layer_s_requirements_have_no_markers() -> None:
    """pip would answer them for the Python that builds, not for Lambda's."""
    assert ";" not in (ROOT / "layers/dependencies/requirements.txt").read_text()


def test_sam_finds_nothing_wrong_without_a_network(tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:9"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "SAM_CLI_TELEMETRY": "0",
        "AWS_DEFAULT_REGION": "us-east-1",
        "HTTPS_PROXY": nowhere,
        "HTTP_PROXY": nowhere,
    }
    command: list[str | Path] = [SAM, "validate", "--lint"]
    linted = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_the_dashboard_is_json_and_its_metrics_belong_to_what_is_in_the_template() -> None:
    (dashboard,) = of_type("CloudWatch::Dashboard").values()
    widgets = json.loads(dashboard["DashboardBody"]["Fn::Sub"])["widgets"]
    watched = {metric[0] for widget in widgets for metric in widget["properties"]["metrics"]}
    assert watched - {".", "..."} == {"AWS/ApiGateway", "AWS/Lambda", "AWS/DynamoDB"}
