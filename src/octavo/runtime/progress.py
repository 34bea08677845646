"""A progress bar on stderr for long work; rich is imported only when one is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from octavo.runtime.readers import Work


@contextmanager
def progress_bar(work: Work, num_requests: int, *, show: bool) -> Iterator[Callable[[], None]]:
    """Gives a function to call after every step."""
    if not show:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    ) as progress:
        task = progress.add_task("requests", total=num_requests, rate="")

        def advance() -> None:
            elapsed_s = progress.tasks[task].elapsed or 0.0
            progress.update(
                task,
                completed=work.num_finished,
                rate=f"{work.num_tokens / elapsed_s:.0f} tokens/s" if elapsed_s else "",
            )

        yield advance
