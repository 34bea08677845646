"""Hugging Face's hub, through its own client and its own cache.

The client (``huggingface_hub``) is imported when a hub id is first used. Its environment variables
hold: HF_HOME and HF_HUB_CACHE (where the cache is), HF_HUB_OFFLINE, HF_ENDPOINT, HF_TOKEN.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from octavo.core.errors import ModelError, ModelNotFound
from octavo.weights.shards import INDEX_FILE, SINGLE_FILE, read_index

SMALL_FILES = (
    "config.json",
    "generation_config.json",
    INDEX_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
"""What is fetched besides the weights."""

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_HUB_ID = re.compile(
    rf"(?P<repo>{_PART}/[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?)(?:@(?P<rev>.+))?"
)
_REVISION = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._/+-]*[A-Za-z0-9_+-])?")


@dataclass(frozen=True, slots=True)
class HubId:
    """A repository on the hub, and which revision of it."""

    repository: str
    """owner/name"""
    revision: str | None
    """A branch, a tag or a commit; None: the main branch."""

    def __str__(self) -> str:
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"

    @classmethod
    def parse(cls, name: str) -> HubId:
        """Read ``owner/name`` or ``owner/name@revision``.

        Raises:
            ModelNotFound: the revision cannot be one.
        """
        match = _HUB_ID.fullmatch(name)
        assert match is not None, "looks_like_hub_id() said so"
        revision = match["rev"]
        if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
            raise ModelNotFound(
                f"{name[:200]}: {revision[:100]!r} is not a revision",
                hint="after @ comes a branch, a tag or a commit, as in owner/name@main",
            )
        return cls(match["repo"], revision)


def looks_like_hub_id(name: str) -> bool:
    """Whether a name that is no path could be owner/name or owner/name@revision."""
    match = _HUB_ID.fullmatch(name)
    return match is not None and not re.search(r"\.\.|--", match["repo"]) and len(name) <= 300


def download(hub_id: HubId, *, weights: bool) -> Path:
    """The folder in the hub's cache that has a repository's files, fetching what is not there.

    Only SMALL_FILES and, if ``weights``, the safetensors that the model consists of are fetched:
    first the index, then what it names.

    Raises:
        ModelNotFound: no such repository or revision, no access to it, or neither the hub nor a
            complete copy in the cache can be reached.
        ModelError: the repository has no safetensors, or its index is broken.
    """
    folder = _snapshot(hub_id, hub_id.revision, SMALL_FILES)
    if not weights:
        return folder
    index = folder / INDEX_FILE
    shards = sorted(set(read_index(index).values())) if index.exists() else [SINGLE_FILE]
    # The snapshot's name is its commit: both fetches see the same one.
    folder = _snapshot(hub_id, folder.name, shards)
    missing = [shard for shard in shards if not (folder / shard).exists()]
    if missing:
        raise ModelError(
            f"{hub_id}: the repository, or its copy in the cache, lacks {missing[0]}"
            + (f" and {len(missing) - 1} more shards" if len(missing) > 1 else ""),
            hint="only safetensors are read; choose a repository or a revision that has them,"
            " or go online to complete the copy",
        )
    return folder


def _snapshot(hub_id: HubId, revision: str | None, files: Sequence[str]) -> Path:
    # Slow to import, and needed for hub ids only.
    from huggingface_hub import constants, errors, snapshot_download

    offline = bool(constants.HF_HUB_OFFLINE)
    try:
        folder = snapshot_download(
            hub_id.repository,
            revision=revision,
            allow_patterns=[glob.escape(file) for file in files],
            local_files_only=offline,
        )
    except errors.GatedRepoError as error:
        raise ModelNotFound(
            f"{hub_id}: the repository is gated, and this account has no access",
            hint="accept its terms on its page, then set HF_TOKEN or run `hf auth login`",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"{hub_id}: the hub has no such repository, or it is private",
            hint="check the spelling; for a private one set HF_TOKEN or run `hf auth login`",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelNotFound(
            f"{hub_id}: the repository has no revision {revision!r}",
            hint="after @ comes a branch, a tag or a commit; leave it out for the main branch",
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise _not_in_cache(hub_id, error, offline=offline) from error
    except errors.HFValidationError as error:
        raise ModelNotFound(
            f"{hub_id}: not a hub id: {error}", hint="a hub id is owner/name"
        ) from error
    # The client's network stacks have no base class in common: requests, httpx, Xet.
    except Exception as error:
        raise ModelNotFound(
            f"{hub_id}: cannot be fetched: {type(error).__name__}: {str(error)[:300]}",
            hint="check the network and the free space of the cache, then try again",
        ) from error
    return Path(folder)


def _not_in_cache(hub_id: HubId, error: Exception, *, offline: bool) -> ModelNotFound:
    incomplete = getattr(error, "snapshot_path", None) is not None
    what = "is in the hub's cache only in part" if incomplete else "is not in the hub's cache"
    if offline:
        return ModelNotFound(
            f"{hub_id}: {what}, and HF_HUB_OFFLINE forbids fetching it",
            hint="unset HF_HUB_OFFLINE to download it, or give the path of a local folder",
        )
    return ModelNotFound(
        f"{hub_id}: {what}, and the hub cannot be reached",
        hint="check the network (and HF_ENDPOINT, proxies), or give the path of a local folder",
    )
