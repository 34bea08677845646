"""``octavo completion``: a script for the shell, on stdout."""

from __future__ import annotations

from typing import Literal

from octavo.cli.main import build_app


def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print a script that completes commands in a shell.

    For bash: octavo completion bash > ~/.local/share/bash-completion/completions/octavo

    Args:
        shell: which one.
    """
    print(build_app().generate_completion(shell=shell))
