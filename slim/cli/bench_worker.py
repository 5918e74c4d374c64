"""`python -m slim.cli.bench_worker JOB`: a process of `slim bench` that measures when it is told to."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """Prepare, say so, then measure once for every line on stdin."""
    from slim.bench.job import read_job, to_line
    from slim.bench.work import measured, prepare

    work, ready = prepare(read_job(Path(sys.argv[1])))
    print(to_line(ready), flush=True)
    for _ in sys.stdin:
        print(to_line(measured(work)), flush=True)


if __name__ == "__main__":
    main()
