"""``octavo serve``: models behind the OpenAI API, until somebody stops it."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import uvloop
from cyclopts import Parameter

from octavo.cli.exit_codes import ExitCode
from octavo.cli.loading import SYSTEM_IS_DROPPED, LoadedModel, load_model
from octavo.cli.output import print_error, print_json, show_warnings, visible
from octavo.cli.settings import QUEUE_BOUNDS, ServerEngineFlags
from octavo.core.errors import ConfigError
from octavo.models.builtin import BUILTIN
from octavo.runtime.async_client import AsyncClient
from octavo.server.auth import ApiKeys
from octavo.server.gate import ACCESS_LOGGER
from octavo.server.run import address_of, listen
from octavo.server.run import serve as serve_clients
from octavo.server.settings import LOOPBACK_HOSTS, SamplingDefaults, ServerSettings

KEY_VARIABLE = "OCTAVO_API_KEY"
MAX_PORT = 65_535
_ALIAS = re.compile(r"([\w.:/-]{1,100})=(.+)")


def serve(
    *models: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_file: Path | None = None,
    no_auth: Annotated[bool, Parameter(negative="")] = False,
    allow_host: Annotated[list[str] | None, Parameter(negative="")] = None,
    sampling_defaults: SamplingDefaults = "model",
    drain_timeout_s: float = 30.0,
    access_log: bool = True,
    json: Annotated[bool, Parameter(negative="")] = False,
    tokenizer: str | None = None,
    engine: ServerEngineFlags | None = None,
) -> int:
    """Serve models over the OpenAI API.

    One line on stdout says where, once requests are served. SIGTERM or Ctrl-C: nothing new is
    taken, what is under way is finished. A second one cuts it off.

    Unless set otherwise, at most 1,000 requests and 1,000,000 tokens wait for each model.

    Args:
        models: model folders, or models on the hub as owner/name; NAME=MODEL serves one under
            another name than its own; by default the built-in model, under the name builtin.
        host: the address to listen on; one that other machines reach needs keys, or --no-auth.
        port: 0 takes a free one.
        api_key_file: keys that clients may use, one a line; the environment variable
            OCTAVO_API_KEY holds another one.
        no_auth: serve without keys even where other machines can reach it.
        allow_host: a further name under which clients may address the server; several times for
            several. By default, any on an address that other machines reach, else localhost.
        sampling_defaults: what holds for fields that a request leaves out: what the model's
            makers suggest in generation_config.json, or what the OpenAI API says.
        drain_timeout_s: how long answers under way may take when the server is stopped.
        access_log: a line of JSON on stderr for each request.
        json: say where it serves as JSON.
        tokenizer: a folder to take the tokeniser from, instead of the model's own.
    """
    sources = named_models(models)
    if not 0 <= port <= MAX_PORT:  # the system would take its lower 16 bits
        raise ConfigError(
            f"port must be in [0, {MAX_PORT}], not {port}", hint="--port 0 takes a free one"
        )
    settings = ServerSettings(
        keys=ApiKeys.read(api_key_file, os.environ.get(KEY_VARIABLE)),
        allowed_hosts=allowed_hosts(host, allow_host or ()),
        sampling_defaults=sampling_defaults,
        drain_timeout_s=drain_timeout_s,
    )
    if not (settings.keys or no_auth or is_loopback(host)):
        raise ConfigError(
            f"other machines can reach {host}, and there are no API keys",
            hint=f"set {KEY_VARIABLE} or --api-key-file, or say --no-auth if that is meant",
        )
    show_warnings()
    if access_log:
        _show_access_log()
    with listen(host, port) as listener:  # before loading: a port in use is known at once
        loaded = {
            name: load_model(source, tokenizer, engine, QUEUE_BOUNDS)
            for name, source in sources.items()
        }
        for name, model in loaded.items():
            if model.note is not None and not json:
                print(f"{visible(name)}: {model.note}", file=sys.stderr)
            if model.text.template.drops_system_messages() and not json:
                print(f"{visible(name)}: {SYSTEM_IS_DROPPED}", file=sys.stderr)
        is_clean = uvloop.run(_serve(loaded, settings, listener, as_json=json))
    if is_clean:
        return ExitCode.OK
    print_error("answers were cut off", "--drain-timeout-s gives them more time")
    return ExitCode.FAILURE


async def _serve(
    loaded: Mapping[str, LoadedModel],
    settings: ServerSettings,
    listener: socket.socket,
    *,
    as_json: bool,
) -> bool:
    url = address_of(listener)

    def ready() -> None:
        if as_json:
            print_json({"url": f"{url}/v1", "models": list(loaded), "pid": os.getpid()})
        else:
            print(f"serving {', '.join(loaded)} at {url}/v1", flush=True)

    async with AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(AsyncClient(model.engine, model.text))
            for name, model in loaded.items()
        }
        return await serve_clients(clients, settings, listener, ready=ready)


def named_models(models: Sequence[str]) -> dict[str, str]:
    """Names to folders or hub ids; the built-in model where there is none.

    Raises:
        ConfigError: two of one name.
    """
    sources: dict[str, str] = {}
    for word in models or (BUILTIN,):
        alias = None if Path(word).exists() else _ALIAS.fullmatch(word)
        name, source = alias.groups() if alias else (_own_name(word), word)
        if name in sources:
            raise ConfigError(
                f"two models are called {name!r}", hint=f"call one of them {name}-2={source}"
            )
        sources[name] = source
    return sources


def _own_name(source: str) -> str:
    """The folder's name; of a hub id all but its revision."""
    if Path(source).exists():
        return Path(source).resolve().name
    return source.rstrip("/").partition("@")[0]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def allowed_hosts(host: str, more: Sequence[str]) -> tuple[str, ...] | None:
    """The names that a Host header may have; None: any."""
    if is_loopback(host):
        own = f"[{host}]" if ":" in host else host
        return tuple(dict.fromkeys((*LOOPBACK_HOSTS, own, *(name.lower() for name in more))))
    return tuple(name.lower() for name in more) or None


def _show_access_log() -> None:
    """Lines go to stderr as they are."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger(ACCESS_LOGGER)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
