"""A process for one measurement: a job in JSON on stdin, results in JSON lines on stdout.

    python -m octavo.bench.worker KIND < job.json

Memory and start-up are those of this process alone. An error that is the user's to mend is the
last line; anything else ends the process with a traceback on stderr.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TypeVar

import msgspec

from octavo.bench.engine import EngineJob, Sample, measure_engine
from octavo.bench.kernels import KernelRow, KernelsJob, measure_kernels
from octavo.bench.overhead import OverheadJob, OverheadResult, measure_overhead
from octavo.bench.quality import QualityJob, QualityState, measure_quality
from octavo.bench.rung import RungJob, RungResult, measure_rung
from octavo.core.errors import EngineDead, OctavoError, error_from_code

Job = EngineJob | RungJob | OverheadJob | QualityJob | KernelsJob
Result = Sample | RungResult | OverheadResult | QualityState | KernelRow
ResultType = TypeVar("ResultType", Sample, RungResult, OverheadResult, QualityState, KernelRow)


class Failure(msgspec.Struct, frozen=True, tag=True):
    """Instead of more results."""

    code: str
    message: str
    hint: str | None


_encoder = msgspec.json.Encoder()
_job_decoder: msgspec.json.Decoder[Job] = msgspec.json.Decoder(Job)
_line_decoder: msgspec.json.Decoder[Result | Failure] = msgspec.json.Decoder(Result | Failure)


def run_in_worker(job: Job, kind: type[ResultType]) -> Iterator[ResultType]:
    """Do a job in a new process; its results as they come.

    Raises:
        OctavoError: what the job raised.
        EngineDead: the process ended in another way; stderr has the reason.
    """
    command = [sys.executable, "-m", "octavo.bench.worker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(BrokenPipeError):  # it has ended already; its status says how
                process.stdin.write(_encoder.encode(job))
                process.stdin.close()
            for line in process.stdout:
                result = _line_decoder.decode(line)
                if isinstance(result, Failure):
                    raise error_from_code(result.code, result.message, result.hint)
                assert isinstance(result, kind)
                yield result
        finally:
            if process.poll() is None and sys.exc_info()[0] is not None:
                process.kill()
    if process.returncode:
        raise EngineDead(f"the measuring process ended with status {process.returncode}")


def main() -> int:
    """Do the job on stdin."""
    job = _job_decoder.decode(sys.stdin.buffer.read())
    results: Iterator[Result]
    if isinstance(job, EngineJob):
        results = measure_engine(job)
    elif isinstance(job, RungJob):
        results = measure_rung(job)
    elif isinstance(job, OverheadJob):
        results = measure_overhead(job)
    elif isinstance(job, KernelsJob):
        results = measure_kernels(job)
    else:
        results = measure_quality(job)
    try:
        for result in results:
            _write(result)
    except OctavoError as error:
        _write(Failure(error.code, error.message, error.hint))
    except KeyboardInterrupt:  # whoever started it heard of it too, and says so
        return 1
    return 0


def _write(result: Result | Failure) -> None:
    sys.stdout.buffer.write(_encoder.encode(result) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
