"""``octavo pull``: a model from the hub into the hub's own cache."""

from __future__ import annotations

import sys

from octavo.cli.exit_codes import ExitCode
from octavo.core.errors import ConfigError, ModelError
from octavo.models.builtin import BUILTIN
from octavo.models.folder import CONFIG_FILE
from octavo.models.hub import HubId, download, looks_like_hub_id


def pull(repo: str, /, *, revision: str | None = None, progress: bool | None = None) -> int:
    """Download a model from the hub.

    Only what is needed is fetched: configuration, tokeniser, and safetensors. Files that are
    there already are not fetched again, and a download that was interrupted goes on where it
    stopped. The folder's path goes to stdout. HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE
    hold.

    Args:
        repo: owner/name or owner/name@revision.
        revision: a branch, a tag or a commit; by default the main branch.
        progress: show progress on stderr; by default on a terminal.
    """
    if not looks_like_hub_id(repo):
        raise ConfigError(
            f"{repo!r} is not the name of a model on the hub",
            hint="the built-in model is here already" if repo == BUILTIN else "it is owner/name",
        )
    if revision is not None:
        if "@" in repo:
            raise ConfigError("the revision is given twice", hint="leave --revision or @... out")
        repo = f"{repo}@{revision}"
    hub_id = HubId.parse(repo)
    _show_progress(sys.stderr.isatty() if progress is None else progress)
    try:
        folder = download(hub_id, weights=True)
    except KeyboardInterrupt:
        print("\nhint: the same command goes on where this one stopped", file=sys.stderr)
        return ExitCode.INTERRUPTED
    if not (folder / CONFIG_FILE).exists():
        raise ModelError(
            f"{hub_id}: the repository has no {CONFIG_FILE}",
            hint="repositories of GGUF files or of adapters alone cannot be used yet",
        )
    print(folder)
    return ExitCode.OK


def _show_progress(show: bool) -> None:
    # Slow to import, and only now certain to be needed.
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    (enable_progress_bars if show else disable_progress_bars)()
