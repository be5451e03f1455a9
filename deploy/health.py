#!/opt/raycrnn/bin/python -I
"""The image's health check: exit 1 if the container runs `serve` and the service does not answer, otherwise exit 0.

The command line of process 1, the entry point, shows whether that is `serve`, and with which `--host` and `--port`. Any
other command (train, `ray start`, bash) is healthy as long as it runs.
"""

import sys
import urllib.request
from pathlib import Path

ENTRY = "raycrnn-entrypoint"
CONNECT_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
"""Addresses that mean all interfaces, and an address for connecting to each."""


def service_of(command: list[str]) -> str | None:
    """Return the health URL of the service that a command line starts; None if it starts no service."""
    names = [Path(argument).name for argument in command]
    arguments = command[names.index(ENTRY) + 1 :] if ENTRY in names else []
    if arguments[:1] == ["raycrnn"]:
        arguments = arguments[1:]
    if arguments[:1] != ["serve"] or {"-h", "--help"} & set(arguments):
        return None
    host = option(arguments, "--host", "127.0.0.1")
    host = CONNECT_ADDRESS.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{option(arguments, '--port', '8000')}/health"


def option(arguments: list[str], name: str, default: str) -> str:
    """Return the last value given by `--name VALUE` or `--name=VALUE`."""
    value = default
    for argument, following in zip(arguments, [*arguments[1:], default], strict=True):
        if argument == name:
            value = following
        elif argument.startswith(f"{name}="):
            value = argument.partition("=")[2]
    return value


def main() -> int:
    url = service_of(Path("/proc/1/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0"))
    if url is None:
        return 0
    # Ignore HTTP proxies from the environment: the service is in this container.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=8) as answer:
            return 0 if answer.status == 200 else 1
    except (OSError, ValueError) as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
