"""API keys: read once, kept as keyed digests, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from pathlib import Path

from octavo.core.errors import ConfigError
from octavo.server.errors import Unauthorized

MIN_KEY_CHARACTERS = 16
MAX_KEYS = 10_000
_SCHEME = b"bearer "


class ApiKeys:
    """The keys that a server accepts. They cannot be read back.

    Args:
        keys: at least 16 printable ASCII characters each.

    Raises:
        ConfigError: a key that is too short to be safe, or cannot be sent in a header.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        # Digests under a secret of this process: all of one length, and of no use elsewhere.
        self._secret = secrets.token_bytes(32)
        digests = []
        for number, key in enumerate(keys, 1):
            if len(key) < MIN_KEY_CHARACTERS or not key.isascii() or not key.isprintable():
                raise ConfigError(
                    f"API key number {number} must have at least {MIN_KEY_CHARACTERS} printable"
                    " ASCII characters",
                    hint="make one with: openssl rand -hex 32",
                )
            digests.append(self._digest(key.encode()))
        if len(digests) > MAX_KEYS:
            raise ConfigError(f"at most {MAX_KEYS} API keys, got {len(digests)}")
        self._digests = tuple(digests)

    @classmethod
    def read(cls, path: Path | None, value: str | None) -> ApiKeys:
        """Keys of a file (one a line; empty lines and lines that begin with # do not count) and
        one more, from the environment.

        Raises:
            ConfigError: the file cannot be read, holds no key, or may be read by others; or the
                one more is blank, which must not mean that no key is asked for.
        """
        if value is not None and not value.strip():
            raise ConfigError(
                "the API key of the environment is set, but blank", hint="unset it, or give a key"
            )
        keys = [] if value is None else [value.strip()]
        if path is not None:
            keys += _read_file(path)
        return cls(keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Raises Unauthorized unless an Authorization header carries a key, or none is needed."""
        if not self._digests:
            return
        given = [value for name, value in headers if name == b"authorization"]
        if not given:
            raise Unauthorized(
                "an API key is required", hint="send the header: Authorization: Bearer KEY"
            )
        digest = self._digest(given[0][len(_SCHEME) :].strip())
        matches = 0
        for known in self._digests:  # all of them: the time does not tell which one matched
            matches += hmac.compare_digest(known, digest)
        if len(given) != 1 or not given[0].lower().startswith(_SCHEME) or not matches:
            raise Unauthorized("the API key is not valid", hint="ask the operator for one")

    def _digest(self, key: bytes) -> bytes:
        return hmac.digest(self._secret, key, hashlib.sha256)


def _read_file(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the keys cannot be read: {error}") from error
    if mode & 0o077:
        raise ConfigError(
            f"{path}: other users may read or change the keys", hint=f"chmod 600 {path}"
        )
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise ConfigError(f"{path}: the file holds no key", hint="write one key a line")
    return keys
