"""`sam build` and `sam deploy` of the real template onto an emulated AWS, and the stack at work behind its API Gateway.

ministack does not know the streaming integration, so the stack is deployed with Streaming=false. It enforces the
function's role, so every call here also shows that the policy allows what is needed.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest

from farebox.ledger import Ledger
from farebox.store import Store
from local.child import ROOT, connect
from local.simulator import Simulator
from local.sockets import Server
from tests.ministack_process import LOOPBACK, Emulated, emulated_aws
from tests.test_template import ALARMS

pytestmark = [
    pytest.mark.skipif(shutil.which("make") is None, reason="sam build runs make, which is not on PATH"),
    pytest.mark.skipif(sys.platform != "linux", reason="layers hold Linux's wheels, and ministack runs them here"),
]

SAM = Path(sys.executable).parent / "sam"
HERE = {
    "ARCHITECTURE": {"aarch64": "arm64"}.get(platform.machine(), platform.machine()),
    "PYTHON_VERSION": "{}.{}".format(*sys.version_info),
    "PYTHON": sys.executable,
}
OPENROUTER_KEY = "sk-or-never-printed"
BUDGETS = {"poor": {"daily": 0.00001}}
PATIENCE_S = 60.0
DAY_S = 86_400


def sam(*arguments: str | Path, **environment: str) -> str:
    """Run SAM's command as a user does: no virtual environment is active."""
    quiet = {"SAM_CLI_TELEMETRY": "0", "SAM_CLI_POLL_DELAY": "0.2"}  # else it asks for a stack's state every 5 s
    finished = subprocess.run(
        [SAM, *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **quiet, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout
    return finished.stdout


def deploy(aws: Emulated, built: Path, *parameters: str) -> str:
    """Deploy what was built, with samconfig.toml as it is in the repository."""
    return sam(
        *("deploy", "--template-file", built / "template.yaml", "--config-file", ROOT / "samconfig.toml"),
        *("--no-confirm-changeset", "--no-progressbar", "--parameter-overrides", *parameters),
        **aws.environment,
    )


@dataclass(frozen=True, slots=True)
class Stack:
    """The deployed stack, and the OpenRouter behind it."""

    aws: Emulated
    outputs: dict[str, str]
    printed: str
    simulator: Simulator
    clients: dict[str, Any] = field(default_factory=dict)

    def client(self, service: str) -> Any:
        if service not in self.clients:
            self.clients[service] = client(self.aws, service)
        return self.clients[service]

    def key(self, output: str = "GatewayKeySecret") -> str:
        return str(self.client("secretsmanager").get_secret_value(SecretId=self.outputs[output])["SecretString"])

    def call(self, method: str, path: str, body: Any = None, key: str | None = None, **headers: str) -> httpx.Response:
        """A request to the API, with the gateway key unless another one is given."""
        url = f"{self.aws.url}/_aws/execute-api/{self.outputs['ApiId']}/api{path}"
        given = {"Authorization": f"Bearer {key or self.key()}", **headers}
        return httpx.request(method, url, json=body, headers=given, timeout=PATIENCE_S)

    def chat(self, tenant: str, **fields: Any) -> httpx.Response:
        body = {"model": "sim/ok", "messages": [{"role": "user", "content": "Say hello"}], **fields}
        return self.call("POST", "/v1/chat/completions", body, **{"X-Tenant-Id": tenant})

    def ledger(self, tenant: str) -> Ledger:
        month = self.call("GET", f"/usage/{tenant}").json()["month"]
        return Store(connect(self.aws.url), self.outputs["TableName"]).ledger(tenant, month)


def client(aws: Emulated, service: str) -> Any:
    names = ("region_name", "aws_access_key_id", "aws_secret_access_key")
    given = dict(zip(names, ("us-east-1", "local", "local"), strict=True))
    return boto3.client(service, endpoint_url=aws.url, **given)  # type: ignore[call-overload]  # few services have stubs


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stack, built for this machine: the emulator runs functions with the interpreter that it has itself."""
    folder = tmp_path_factory.mktemp("build")
    sam("build", "--build-dir", folder, AWS_DEFAULT_REGION="us-east-1", **HERE)
    return folder


@pytest.fixture(scope="module")
def stack(built: Path) -> Iterator[Stack]:
    simulator = Simulator(api_key=OPENROUTER_KEY, generation_ready_s=0, sleep=lambda _: None)
    with emulated_aws() as aws, Server(simulator.handle) as upstream:
        budgets = json.dumps(BUDGETS).replace('"', r"\"")
        printed = deploy(
            aws,
            built,
            "Streaming=false",
            f"OpenRouterApiKey={OPENROUTER_KEY}",
            f"OpenRouterBaseUrl={upstream.url}/api/v1",
            f'TenantBudgets="{budgets}"',
            "AlertEmail=owner@shop.example",
        )
        made = client(aws, "cloudformation").describe_stacks(StackName="farebox")["Stacks"][0]
        outputs = {output["OutputKey"]: output["OutputValue"] for output in made["Outputs"]}
        deployed = Stack(aws, outputs, printed, simulator)
        yield deployed
        for each in deployed.clients.values():
            each.close()


@pytest.fixture
def tenant(stack: Stack) -> str:
    """A tenant that nobody has called for, and a bill of nothing."""
    stack.simulator.reset()
    return f"t-{uuid.uuid4().hex}"


# What is uploaded.


def test_the_slim_layer_is_all_that_the_program_needs(built: Path) -> None:
    """No other package is on the path: -S leaves the environment's out."""
    program = """
import sys
sys.path[:0] = sys.argv[1:]
import botocore.session, farebox.gate, farebox.admin
session = botocore.session.get_session()
for name in ("dynamodb", "secretsmanager", "cloudwatch", "sns"):
    session.create_client(name, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s")
print(botocore.__file__, farebox.__file__)
"""
    layers = [str(built / layer / "python") for layer in ("Dependencies", "Farebox")]
    command = [sys.executable, "-S", "-I", "-W", "error", "-c", program, *layers]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert [Path(file).is_relative_to(layer) for file, layer in zip(ran.stdout.split(), layers, strict=True)] == [
        True
    ] * 2


def test_layers_are_compiled_where_the_right_python_is_at_hand(built: Path) -> None:
    tag = f"cpython-{sys.version_info.major}{sys.version_info.minor}"
    for file in ("Dependencies/python/botocore/client.py", "Farebox/python/farebox/gate.py"):
        source = built / file
        assert (source.parent / "__pycache__" / f"{source.stem}.{tag}.pyc").exists()


def test_make_build_makes_layers_for_lambda_on_any_machine(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "local.build", "--build-dir", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "For arm64, Python 3.13:" in ran.stdout
    binaries = [file.name for file in (tmp_path / "Dependencies").rglob("*.so")]
    assert all(name.endswith(".cpython-313-aarch64-linux-gnu.so") for name in binaries), binaries
    zipped = {line.split()[0]: float(line.split()[1]) for line in ran.stdout.splitlines() if " MB zipped" in line}
    assert zipped.keys() == {"Proxy", "Admin", "Rollup", "Dependencies", "Farebox", "Runtime"}
    assert zipped["Dependencies"] < 12
    assert zipped["Farebox"] < 0.5


# The stack.


def test_nothing_listens_where_others_could_reach_it(stack: Stack) -> None:
    stack.call("GET", "/health")
    assert {where.partition(":")[0] for where in stack.aws.listeners()} == {LOOPBACK}


def test_keys_are_made_by_the_stack_and_printed_nowhere(stack: Stack) -> None:
    keys = {stack.key("GatewayKeySecret"), stack.key("AdminKeySecret"), stack.key("OpenRouterKeySecret")}
    assert OPENROUTER_KEY in keys
    assert len(keys) == 3
    assert [key for key in keys if key in stack.printed or (len(key) < 43 and key != OPENROUTER_KEY)] == []


def test_the_outputs_are_what_a_user_needs_next(stack: Stack) -> None:
    assert stack.outputs["BaseUrl"].endswith(".amazonaws.com/api/v1")
    for output in ("GatewayKey", "AdminKey"):
        assert stack.outputs[f"{output}Secret"] in stack.outputs[f"Read{output}"]


def test_the_function_is_as_the_template_says(stack: Stack) -> None:
    function = stack.client("lambda").get_function_configuration(FunctionName=stack.outputs["ProxyName"])
    assert "AWS_LAMBDA_EXEC_WRAPPER" not in function["Environment"]["Variables"]
    assert [layer["Arn"].split(":")[-2] for layer in function["Layers"]] == ["Dependencies", "Farebox", "Runtime"]
    assert (function["Runtime"], function["Architectures"], function["Timeout"]) == ("python3.13", ["arm64"], 900)


def test_health_needs_no_key(stack: Stack) -> None:
    assert stack.call("GET", "/health", key="none").json() == {"status": "ok"}


def test_a_request_without_the_right_key_is_refused(stack: Stack) -> None:
    for path in ("/v1/models", "/usage/default"):
        refused = stack.call("GET", path, key="wrong")
        assert (refused.status_code, refused.json()["error"]["metadata"]["reason"]) == (401, "unauthenticated")


def test_models_are_those_of_openrouter(stack: Stack) -> None:
    assert "sim/ok" in {row["id"] for row in stack.call("GET", "/v1/models").json()["data"]}


@pytest.mark.parametrize("streamed", [False, True])
def test_a_call_is_answered_and_booked_as_openrouter_bills_it(stack: Stack, tenant: str, streamed: bool) -> None:  # noqa: FBT001
    answered = stack.chat(tenant, stream=streamed)
    assert answered.status_code == 200, answered.text
    assert answered.headers["X-Farebox-Model"] == "sim/ok"
    assert answered.text.endswith("data: [DONE]\n\n") is streamed
    billed = stack.simulator.billed_nanousd
    ledger = stack.ledger(tenant)
    assert ledger.committed_nanousd == billed > 0
    assert not ledger.holds
    usage = stack.call("GET", f"/usage/{tenant}", key=stack.key("AdminKeySecret")).json()
    assert usage["monthly"]["spent_usd"] == billed / 1e9


def test_a_call_leaves_a_span_that_expires(stack: Stack, tenant: str) -> None:
    stack.chat(tenant)
    items = stack.client("dynamodb").scan(TableName=stack.outputs["TableName"])["Items"]
    [span] = [item for item in items if item.get("tenant") == {"S": tenant}]
    assert int(span["cost_nanousd"]["N"]) == stack.simulator.billed_nanousd
    assert int(span["ttl"]["N"]) > int(span["admitted_at"]["N"]) + 365 * DAY_S


def test_a_call_over_budget_is_refused_and_costs_nothing(stack: Stack, tenant: str) -> None:  # noqa: ARG001 - a bill of nothing
    refused = stack.chat("poor")
    assert (refused.status_code, refused.json()["error"]["metadata"]["reason"]) == (429, "budget_exhausted")
    assert refused.headers["x-should-retry"] == "false"
    assert stack.simulator.billed_nanousd == stack.ledger("poor").committed_nanousd == 0


def test_a_changed_key_counts_after_a_deployment_with_another_version(stack: Stack, built: Path) -> None:
    old, new = stack.key(), f"new-{uuid.uuid4().hex}"
    stack.client("secretsmanager").put_secret_value(SecretId=stack.outputs["GatewayKeySecret"], SecretString=new)
    deploy(stack.aws, built, "KeysVersion=2")  # what is not given stays as it was, the key of OpenRouter, too
    assert stack.call("GET", "/v1/models", key=new).status_code == 200
    assert stack.call("GET", "/v1/models", key=old).status_code == 401
    assert stack.key("OpenRouterKeySecret") == OPENROUTER_KEY


# The admin's side.


def test_a_tenant_and_its_key_are_made_and_cut_off_with_effect_on_the_next_call(stack: Stack, tenant: str) -> None:
    admin = stack.key("AdminKeySecret")
    assert stack.call("POST", "/admin/tenants", {"name": tenant, "daily": 1}, key=admin).status_code == 201
    made = stack.call("POST", f"/admin/tenants/{tenant}/keys", {"name": "laptop"}, key=admin)
    assert (made.status_code, made.headers["Cache-Control"]) == (201, "no-store")
    key = made.json()["key"]
    body = {"model": "sim/ok", "messages": [{"role": "user", "content": "Say hello"}]}
    assert stack.call("POST", "/v1/chat/completions", body, key=key).status_code == 200
    assert stack.call("PATCH", f"/admin/tenants/{tenant}", {"daily": 0}, key=admin).status_code == 200
    refused = stack.call("POST", "/v1/chat/completions", body, key=key)
    assert refused.json()["error"]["metadata"]["reason"] == "budget_exhausted"
    assert stack.call("DELETE", f"/admin/tenants/{tenant}/keys/{made.json()['id']}", key=admin).status_code == 200
    assert stack.call("POST", "/v1/chat/completions", body, key=key).status_code == 401
    listed = stack.call("GET", "/admin/tenants?limit=500", key=admin).json()["data"]
    assert tenant in {row["name"] for row in listed}
    assert stack.call("DELETE", f"/admin/tenants/{tenant}", key=admin).json()["status"] == "deleted"


def test_the_admin_s_side_takes_its_own_key_only_and_answers_in_the_gateway_s_shape(stack: Stack) -> None:
    refused = stack.call("GET", "/admin/openapi.json")
    assert (refused.status_code, refused.json()["error"]["metadata"]["reason"]) == (401, "unauthenticated")
    document = stack.call("GET", "/admin/openapi.json", key=stack.key("AdminKeySecret"))
    assert document.json()["servers"] == [{"url": "/api/admin"}]
    assert stack.call("GET", "/admin", key=stack.key("AdminKeySecret")).status_code == 404


# The schedule.


def test_the_schedule_finds_out_what_a_lost_call_has_cost(stack: Stack, tenant: str) -> None:
    """The emulator looks every 10 s, and `rate` counts from the deployment: a one-time copy does not wait so long."""
    assert stack.chat(tenant, model="sim/usage-missing").status_code == 200
    assert len(stack.ledger(tenant).holds) == 1
    scheduler = stack.client("scheduler")
    (deployed,) = scheduler.list_schedules()["Schedules"]
    schedule = scheduler.get_schedule(Name=deployed["Name"], GroupName=deployed["GroupName"])
    assert schedule["ScheduleExpression"] == "rate(5 minutes)"
    now = datetime.now(UTC).strftime("at(%Y-%m-%dT%H:%M:%S)")
    window = schedule["FlexibleTimeWindow"]
    scheduler.create_schedule(Name="now", ScheduleExpression=now, Target=schedule["Target"], FlexibleTimeWindow=window)
    until = time.monotonic() + PATIENCE_S
    while stack.ledger(tenant).holds and time.monotonic() < until:
        time.sleep(0.2)
    ledger = stack.ledger(tenant)
    assert not ledger.holds
    assert ledger.committed_nanousd == stack.simulator.billed_nanousd > 0


# Alarms.


@pytest.fixture
def inbox(stack: Stack) -> str:
    """A queue that hears what the stack's topic says."""
    queues = stack.client("sqs")
    url: str = queues.create_queue(QueueName="alerts")["QueueUrl"]
    arn = queues.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    allowed = {"Effect": "Allow", "Principal": {"Service": "sns.amazonaws.com"}, "Action": "sqs:SendMessage"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [{**allowed, "Resource": arn}]})
    queues.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})
    stack.client("sns").subscribe(TopicArn=stack.outputs["AlertsTopic"], Protocol="sqs", Endpoint=arn)
    return url


def next_alarm(stack: Stack, queue: str) -> dict[str, Any]:
    queues = stack.client("sqs")
    message = queues.receive_message(QueueUrl=queue, WaitTimeSeconds=20)["Messages"][0]
    queues.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    alarm: dict[str, Any] = json.loads(json.loads(message["Body"])["Message"])
    return alarm


def test_every_alarm_goes_off_at_its_threshold_and_tells_the_topic(stack: Stack, inbox: str) -> None:
    metrics = stack.client("cloudwatch")
    alarms = metrics.describe_alarms()["MetricAlarms"]
    assert len(alarms) == len(ALARMS)
    told: set[str] = set()
    for alarm in alarms:
        datum = {"MetricName": alarm["MetricName"], "Dimensions": alarm["Dimensions"], "Value": alarm["Threshold"]}
        metrics.put_metric_data(Namespace=alarm["Namespace"], MetricData=[datum])
        # Not always the next message: the emulator does not look at dimensions, and two functions have the same metric.
        while alarm["AlarmName"] not in told:
            message = next_alarm(stack, inbox)
            assert message["NewStateValue"] == "ALARM"
            told.add(message["AlarmName"])
    assert {alarm["StateValue"] for alarm in metrics.describe_alarms()["MetricAlarms"]} == {"ALARM"}


def test_alarms_watch_the_resources_of_this_stack(stack: Stack) -> None:
    alarms = stack.client("cloudwatch").describe_alarms()["MetricAlarms"]
    watched = {(row["Name"], row["Value"]) for alarm in alarms for row in alarm["Dimensions"]}
    functions = {("FunctionName", stack.outputs[name]) for name in ("ProxyName", "AdminName", "RollupName")}
    others = {("ApiName", "farebox"), ("Stage", "api"), ("TableName", stack.outputs["TableName"])}
    assert watched == functions | others
    api = stack.client("apigateway").get_rest_api(restApiId=stack.outputs["ApiId"])
    assert api["name"] == "farebox"


def test_the_owner_is_asked_to_confirm_an_address(stack: Stack) -> None:
    topic = stack.outputs["AlertsTopic"]
    subscriptions = stack.client("sns").list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    assert ("email", "owner@shop.example") in {(each["Protocol"], each["Endpoint"]) for each in subscriptions}
