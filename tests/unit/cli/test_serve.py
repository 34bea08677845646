"""What ``octavo serve`` makes of its words; serving itself is tested with real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavo.cli.serve import allowed_hosts, is_loopback, named_models, serve
from octavo.core.errors import ConfigError
from octavo.server.settings import LOOPBACK_HOSTS
from tests.command_line import CommandLine


def test_a_model_is_called_by_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "small-model"
    folder.mkdir()
    assert named_models([str(folder)]) == {"small-model": str(folder)}
    assert named_models([f"{folder}/"]) == {"small-model": f"{folder}/"}
    assert named_models([f"nick={folder}"]) == {"nick": str(folder)}


def test_a_hub_model_is_called_by_its_id() -> None:
    assert named_models(["owner/name@v2", "x=owner/name"]) == {
        "owner/name": "owner/name@v2",
        "x": "owner/name",
    }


def test_a_folder_with_an_equals_sign_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a=b"
    folder.mkdir()
    assert named_models([str(folder)]) == {"a=b": str(folder)}


def test_two_of_a_name() -> None:
    with pytest.raises(ConfigError, match="two models are called 'x'") as caught:
        named_models(["x=a", "x=b"])
    assert caught.value.hint == "call one of them x-2=b"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.3.4.5", "::1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    names = allowed_hosts(host, ["Box.example"])
    assert names is not None
    assert {*LOOPBACK_HOSTS, "box.example"} <= set(names)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "box.example", ""])
def test_what_others_can_reach(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_loopback(host)
    assert allowed_hosts(host, []) is None
    assert allowed_hosts(host, ["Box.example"]) == ("box.example",)
    monkeypatch.delenv("OCTAVO_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="no API keys"):
        serve("no-such-model", host=host)


@pytest.mark.parametrize("port", [-1, 65_536, 70_000])
def test_no_such_port(port: int) -> None:
    with pytest.raises(ConfigError, match=r"port must be in \[0, 65535\]") as caught:
        serve("no-such-model", port=port)
    assert caught.value.hint == "--port 0 takes a free one"


def test_help_has_the_bounds_that_a_server_has(octavo: CommandLine) -> None:
    text = " ".join(octavo("serve", "--help").out.split())
    for flag, bound in (("--max-waiting-requests", 1_000), ("--max-waiting-tokens", 1_000_000)):
        _, _, rest = text.partition(f"{flag} INT: ")
        assert rest.partition(" --")[0].endswith(f"[default: {bound}]")
