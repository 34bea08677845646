"""A progress bar on stderr for long work; rich is imported only when one is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from octavo.runtime.outputs import OutputAssembler

Advance = Callable[[Sequence[OutputAssembler]], None]


@contextmanager
def progress_bar(num_requests: int, *, show: bool) -> Iterator[Advance]:
    """Gives a function to call after every step with all assemblers of the work."""
    if not show:
        yield lambda assemblers: None
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

        def advance(assemblers: Sequence[OutputAssembler]) -> None:
            tokens = sum(assembler.num_output_tokens for assembler in assemblers)
            elapsed_s = progress.tasks[task].elapsed or 0.0
            progress.update(
                task,
                completed=sum(assembler.finished for assembler in assemblers),
                rate=f"{tokens / elapsed_s:.0f} tokens/s" if elapsed_s else "",
            )

        yield advance
