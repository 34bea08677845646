"""API keys: where they come from, who gets in, and that they cannot be read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavo.core.errors import ConfigError
from octavo.server.auth import ApiKeys
from octavo.server.errors import Unauthorized

KEY = "correct-horse-battery"
OTHER = "another-key-of-16-or-more"


def bearer(value: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"localhost"), (b"authorization", value.encode())]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
@pytest.mark.parametrize("key", [KEY, OTHER])
def test_a_key_opens(scheme: str, key: str) -> None:
    ApiKeys([KEY, OTHER]).check(bearer(f"{scheme} {key}"))


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Bearer ", f"Basic {KEY}", KEY, f"Bearer {KEY}x", f"Bearer {KEY[:-1]}"],
)
def test_anything_else_does_not(value: str) -> None:
    with pytest.raises(Unauthorized, match="not valid"):
        ApiKeys([KEY]).check(bearer(value))


def test_no_header_and_two_headers() -> None:
    keys = ApiKeys([KEY])
    with pytest.raises(Unauthorized, match="required"):
        keys.check([(b"host", b"localhost")])
    with pytest.raises(Unauthorized):
        keys.check(bearer(f"Bearer {KEY}") + bearer("Bearer other"))


def test_without_keys_everybody_gets_in() -> None:
    assert not ApiKeys()
    ApiKeys().check([])


@pytest.mark.parametrize("key", ["short", "x" * 15, "with a \n newline in it", "k\u00e9y" * 8])
def test_bad_keys_are_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="API key number 1"):
        ApiKeys([key])


def test_keys_do_not_show(tmp_path: Path) -> None:
    keys = ApiKeys([KEY])
    assert KEY not in repr(keys)
    assert all(KEY.encode() not in repr(value).encode() for value in vars(keys).values())


def test_keys_of_a_file_and_of_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# of the team\n{KEY}\n\n  {OTHER}  \n")
    path.chmod(0o600)
    keys = ApiKeys.read(path, "the-key-of-the-environment")
    for key in (KEY, OTHER, "the-key-of-the-environment"):
        keys.check(bearer(f"Bearer {key}"))
    with pytest.raises(Unauthorized):
        keys.check(bearer("Bearer # of the team"))
    assert not ApiKeys.read(None, None)


@pytest.mark.parametrize("value", ["", "  ", "\n"])
def test_a_blank_key_does_not_mean_that_everybody_gets_in(value: str) -> None:
    with pytest.raises(ConfigError, match="blank"):
        ApiKeys.read(None, value)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with pytest.raises(ConfigError, match="cannot be read"):
        ApiKeys.read(path, None)
    path.write_text(KEY)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="other users") as caught:
        ApiKeys.read(path, None)
    assert caught.value.hint == f"chmod 600 {path}"
    path.write_text("# nothing\n")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="holds no key"):
        ApiKeys.read(path, None)
