"""`farebox --stack NAME`: the outputs and secrets of a stack on an emulated AWS, and a gateway behind a socket."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from local.sockets import HttpRequest, HttpResponse, Server
from tests.command_line import run
from tests.ministack_process import Emulated, emulated_aws

KEYS = {"AdminKey": "an-admin-key", "GatewayKey": "a-gateway-key"}
ANSWER = b'{"data":[],"next":null,"month":"2026-11","warnings":[]}'
SIGNED = re.compile(r"AWS4-HMAC-SHA256 Credential=(.+), SignedHeaders=(.+), Signature=(.+)")


@pytest.fixture(scope="module")
def aws() -> Iterator[Emulated]:
    with emulated_aws() as emulated:
        yield emulated


def make_stack(aws: Emulated, name: str, base_url: str, auth: str, *, without: str = "") -> None:
    """What template.yaml makes, as far as the command line looks at it."""
    outputs = {"BaseUrl": base_url, **{f"{key}Secret": {"Ref": key} for key in KEYS}}
    template = {
        "Parameters": {"AdminAuth": {"Type": "String"}},
        "Resources": {
            key: {"Type": "AWS::SecretsManager::Secret", "Properties": {"Name": f"{name}-{key}", "SecretString": text}}
            for key, text in KEYS.items()
        },
        "Outputs": {key: {"Value": value} for key, value in outputs.items() if key != without},
    }
    names = ("region_name", "aws_access_key_id", "aws_secret_access_key")
    given = dict(zip(names, ("us-east-1", "local", "local"), strict=True))
    client: Any = boto3.client("cloudformation", endpoint_url=aws.url, **given)  # type: ignore[call-overload]
    parameters = [{"ParameterKey": "AdminAuth", "ParameterValue": auth}]
    client.create_stack(StackName=name, TemplateBody=json.dumps(template), Parameters=parameters)
    client.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig={"Delay": 0.1})
    client.close()


class Gateway:
    """Answers with nothing, and keeps what it was asked."""

    def __init__(self) -> None:
        self.seen: list[HttpRequest] = []

    def handle(self, request: HttpRequest) -> HttpResponse:
        self.seen.append(request)
        return HttpResponse(200, (), (ANSWER,))


def environment(aws: Emulated) -> dict[str, str | None]:
    return {**aws.environment, "AWS_PROFILE": None, "AWS_REGION": None}


def test_a_stack_tells_where_its_gateway_is_and_its_secrets_have_the_keys(aws: Emulated) -> None:
    gateway = Gateway()
    with Server(gateway.handle) as server:
        make_stack(aws, "shop", f"{server.url}/api/v1", "key")
        for arguments in (("tenants", "list"), ("usage",), ("quote", "sim/ok", "hello", "--json")):
            assert run("--stack", "shop", *arguments, environment=environment(aws)).exit_code == 0
    assert [(seen.target.partition("?")[0], seen.header("authorization")) for seen in gateway.seen] == [
        ("/api/admin/tenants", "Bearer an-admin-key"),
        ("/api/usage", "Bearer an-admin-key"),
        ("/api/v1/quote", "Bearer a-gateway-key"),
    ]


def signature_of(request: HttpRequest, url: str, names: list[str]) -> str:
    """What API Gateway computes of a request as it has arrived."""
    headers = {name: str(request.header(name)) for name in names}
    sent = AWSRequest(request.method, f"{url}{request.target}", data=request.body, headers=headers)
    at = str(request.header("x-amz-date"))
    assert abs(datetime.strptime(f"{at}+0000", "%Y%m%dT%H%M%SZ%z").timestamp() - datetime.now(UTC).timestamp()) < 300
    sent.context["timestamp"] = at
    signer = SigV4Auth(Credentials("local", "local"), "execute-api", "us-east-1")
    return str(signer.signature(signer.string_to_sign(sent, signer.canonical_request(sent)), sent))


def test_where_the_admins_side_takes_signed_requests_they_are_signed(aws: Emulated) -> None:
    gateway = Gateway()
    with Server(gateway.handle) as server:
        make_stack(aws, "signed", f"{server.url}/api/v1", "iam")
        for arguments in (
            ("tenants", "list"), ("tenants", "set", "acme", "--daily", "5", "--version", "3"), ("keys", "list", "a b"),
        ):  # fmt: skip
            assert run("--stack", "signed", *arguments, "--json", environment=environment(aws)).exit_code == 0
        assert run("--stack", "signed", "usage", environment=environment(aws)).exit_code == 0
    assert [seen.method for seen in gateway.seen] == ["GET", "PATCH", "GET", "GET"]
    for seen in gateway.seen[:3]:
        found = SIGNED.fullmatch(str(seen.header("authorization")))
        assert found is not None
        assert found[1].endswith("/us-east-1/execute-api/aws4_request")
        names = found[2].split(";")
        assert {"host", "x-amz-date"} <= set(names)
        assert found[3] == signature_of(seen, server.url, names)
    assert gateway.seen[1].header("if-match") == '"3"'
    assert gateway.seen[3].header("authorization") == "Bearer an-admin-key"  # usage is not the admin's side


@pytest.mark.parametrize("missing", ["BaseUrl", "GatewayKeySecret"])
def test_a_stack_of_something_else_is_said_to_be_none(missing: str, aws: Emulated) -> None:
    make_stack(aws, f"other-{missing}", "http://127.0.0.1:1/api/v1", "key", without=missing)
    ran = run("--stack", f"other-{missing}", "tenants", "list", environment=environment(aws))
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert ran.stderr == f"farebox: the stack other-{missing} has no output {missing}; is it a gateway?\n"


def test_a_stack_that_is_not_there_is_a_sentence(aws: Emulated) -> None:
    ran = run("--stack", "nowhere", "tenants", "list", environment=environment(aws))
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert ran.stderr.startswith("farebox: the stack nowhere cannot be read: ")
    assert ran.stderr.count("\n") == 1


def test_without_a_region_or_credentials_it_is_said_what_is_missing(tmp_path: Any) -> None:
    nobody = dict.fromkeys(("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID"))
    files = {"AWS_CONFIG_FILE": str(tmp_path / "none"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none")}
    given: dict[str, str | None] = {**nobody, **files, "AWS_EC2_METADATA_DISABLED": "true"}
    for region, said in ((None, "You must specify a region"), ("us-east-1", "Unable to locate credentials")):
        ran = run("--stack", "shop", "tenants", "list", environment={**given, "AWS_DEFAULT_REGION": region})
        assert ran.exit_code == 2
        assert f"farebox: the stack shop cannot be read: {said}" in ran.stderr
