"""Where a deployed gateway is: the outputs of its CloudFormation stack, and the keys in its secrets."""

from collections.abc import Generator
from typing import Any

import httpx
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

from .cli_client import Place, Unconfigured, base_of

SERVICE = "execute-api"


class Signer(httpx.Auth):
    """Requests that are signed with SigV4, by whose credentials boto3 would take (AWS_PROFILE and the like)."""

    requires_request_body = True

    def __init__(self, session: Session, region: str) -> None:
        self._session = session
        self._region = region

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        credentials = self._session.get_credentials()
        if credentials is None:
            raise Unconfigured("there are no AWS credentials to sign with")
        signed = AWSRequest(request.method, str(request.url), data=request.content, headers=_signed_headers(request))
        SigV4Auth(credentials, SERVICE, self._region).add_auth(signed)
        request.headers.update(dict(signed.headers.items()))
        yield request


def _signed_headers(request: httpx.Request) -> dict[str, str]:
    """Others may be changed on their way."""
    return {name: request.headers[name] for name in ("host", "content-type") if name in request.headers}


def place_of(stack: str) -> Place:
    """The gateway that a stack is, found as boto3 does (AWS_PROFILE, AWS_REGION). Raises Unconfigured."""
    session = Session()
    try:
        cloudformation: Any = session.create_client("cloudformation")
        found = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
        outputs = {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}
        parameters = {each["ParameterKey"]: each.get("ParameterValue") for each in found.get("Parameters", [])}
        missing = [name for name in ("BaseUrl", "AdminKeySecret", "GatewayKeySecret") if name not in outputs]
        if missing:
            raise Unconfigured(f"the stack {stack} has no output {missing[0]}; is it a gateway?")
        secretsmanager: Any = session.create_client("secretsmanager")
        admin_key, gateway_key = (
            str(secretsmanager.get_secret_value(SecretId=outputs[name])["SecretString"]).strip()
            for name in ("AdminKeySecret", "GatewayKeySecret")
        )
    except (BotoCoreError, ClientError) as e:
        raise Unconfigured(f"the stack {stack} cannot be read: {e}") from e
    signer = Signer(session, cloudformation.meta.region_name) if parameters.get("AdminAuth") == "iam" else None
    return Place(base_of(outputs["BaseUrl"]), admin_key, gateway_key, signer)
