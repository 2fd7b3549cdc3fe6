"""`python -m farebox`, and `farebox` once installed: the command line (cli.py)."""

import sys

NEEDED = ("click", "rich")


def main() -> None:
    """Run it; what it needs beside the gateway's own packages is the extra `cli`."""
    try:
        from .cli import farebox  # noqa: PLC0415 - it may be missing
    except ModuleNotFoundError as e:
        name = str(e.name).partition(".")[0]
        if name not in NEEDED:
            raise
        sys.exit(f"farebox: the command line needs {name}; install it with: pip install click rich")
    farebox(prog_name="farebox")


if __name__ == "__main__":
    main()
