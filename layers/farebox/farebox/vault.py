"""Keys from AWS Secrets Manager: a variable NAME_SECRET names the secret whose text is the setting NAME.

Read once, at cold start. `make dev` and tests give the settings themselves.
"""

from collections.abc import Mapping

from botocore.exceptions import BotoCoreError, ClientError

from .aws import secrets_client
from .settings import SettingsError

NAMES = ("OPENROUTER_API_KEY", "FAREBOX_GATEWAY_KEY", "FAREBOX_ADMIN_KEY")


def with_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with the keys that its _SECRET variables name. Raises SettingsError."""
    named = {name: secret for name in NAMES if (secret := environment.get(f"{name}_SECRET"))}
    if not named:
        return dict(environment)
    client = secrets_client()
    found = {}
    for name, secret in named.items():
        try:
            found[name] = client.get_secret_value(SecretId=secret).get("SecretString", "").strip()
        except (ClientError, BotoCoreError) as e:
            raise SettingsError(f"{name}_SECRET: the secret {secret} cannot be read: {e}") from e
        if not found[name]:
            raise SettingsError(f"{name}_SECRET: the secret {secret} is empty; put the key into it")
    return {**environment, **found}
