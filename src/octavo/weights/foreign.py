"""What a file is when it is not safetensors, so that the error can say what to do.

Pickle-based checkpoints can run code when they are loaded; they are refused by their name and by
their first bytes, and never opened any further. Nothing here reads weights.
"""

from __future__ import annotations

from pathlib import Path

from octavo.core.errors import ModelError, UnsupportedModel

PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
HEAD_BYTES = 64
"""How much of a file's beginning :func:`refuse_foreign` wants to see."""

CONVERT_HINT = (
    "convert to safetensors: load it with transformers where you trust it, then save_pretrained()"
)


def refuse_foreign(path: Path, head: bytes) -> None:
    """Return if ``path``, whose first bytes are ``head``, may be a safetensors file.

    Raises:
        UnsupportedModel: a GGUF file.
        ModelError: a pickle, a git-lfs pointer, or another format that was recognised.
    """
    suffix = path.suffix.lower()
    if suffix == ".gguf" or head.startswith(b"GGUF"):
        raise UnsupportedModel(
            f"{path}: GGUF files cannot be read yet",
            hint="GGUF comes later; for now use the Hugging Face folder of the same model",
        )
    if suffix in PICKLE_SUFFIXES:
        raise ModelError(
            f"{path}: {suffix} checkpoints are refused, since loading a pickle can run any code",
            hint=CONVERT_HINT,
        )
    if _is_pickle(head):
        raise ModelError(
            f"{path}: holds a pickle or a PyTorch archive, whatever its name says;"
            " such files are refused, since loading one can run any code",
            hint=CONVERT_HINT,
        )
    if head.startswith(b"version https://git-lfs"):
        raise ModelError(
            f"{path}: a git-lfs pointer, not the file itself",
            hint="run `git lfs pull` in the repository, or download the file again",
        )
    if head.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        raise ModelError(
            f"{path}: a web page, not a checkpoint",
            hint="the download answered with an error or a log-in page: fetch the file again",
        )
    if head.startswith(b"\x89HDF"):
        raise ModelError(f"{path}: an HDF5 file, not safetensors", hint=CONVERT_HINT)


def _is_pickle(head: bytes) -> bool:
    """A zip archive (torch.save since 1.6), or a pickle of protocol 2 to 5."""
    if head[8:9] == b"{":
        return False  # the first eight bytes are the length of a header: 640 is 80 02 00 ...
    zip_archive = head.startswith(b"PK\x03\x04")
    return zip_archive or (
        head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    )
