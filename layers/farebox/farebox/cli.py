"""`farebox`: tenants, keys, usage, quotes and the last calls of a gateway, from a command line. It uses HTTP only.

What is asked for goes to stdout, everything else to stderr. The program ends with 0; with 1 where the gateway says no,
2 where the command is wrong or no gateway is known, 3 where the gateway cannot be reached.
"""

import click

from . import __version__
from .cli_tenants import keys, tenants
from .cli_terminal import Clock, Commands, Terminal, misused
from .cli_usage import quote, tail, usage


@click.group(
    cls=Commands,
    name="farebox",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: farebox --local tenants create acme --daily 5",
)
@click.version_option(__version__, message="farebox %(version)s")
@click.option("--local", is_flag=True, help="The gateway of `make dev`, with its keys (PORT moves it).")
@click.option("--stack", metavar="NAME", help="The gateway of a CloudFormation stack, with its keys; boto3's settings.")
@click.pass_context
def farebox(context: click.Context, stack: str | None, *, local: bool) -> None:
    """Tenants, keys and usage of a Farebox gateway.

    Which gateway: FAREBOX_URL, with the keys FAREBOX_ADMIN_KEY and, for quotes, FAREBOX_GATEWAY_KEY; or --stack, or
    --local.
    """
    if local and stack is not None:
        misused("--local and --stack do not go together")
    context.obj = Terminal(context.obj or Clock(), stack, local=local)


for command in (tenants, keys, usage, quote, tail):
    farebox.add_command(command)
