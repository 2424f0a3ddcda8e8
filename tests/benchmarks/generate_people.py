"""Write an HR file of 120,000 or 1,000,000 people with planted faults, as a stream.

    python -m tests.benchmarks.generate_people FILE [--people 120000] [--faults 1200] [--read]

With `--read` the file is read back through `providers.hr_file`, and rows a second and the growth of memory are printed.
"""

from __future__ import annotations

import argparse
import resource
import time
from datetime import date
from pathlib import Path

from idhub.demo.sample import write_hr_file
from providers.hr_file import HrFile, RefusedRow


def main() -> None:
    """Write the file, and read it back when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--people", type=int, default=120_000)
    parser.add_argument("--faults", type=int, default=1_200)
    parser.add_argument("--today", type=date.fromisoformat, default=date(2026, 11, 23))
    parser.add_argument("--read", action="store_true")
    options = parser.parse_args()
    began = time.perf_counter()
    written = write_hr_file(options.file, today=options.today, people=options.people, faults=options.faults)
    seconds = time.perf_counter() - began
    print(f"wrote {written.rows} rows, {len(written.faults)} of them faulty, in {seconds:.1f} s")
    if options.read:
        read_back(options.file, expected=[fault.line for fault in written.faults])


def read_back(path: Path, *, expected: list[int]) -> None:
    """Read the file and compare the refused lines with the planted ones."""
    before = _peak_memory_mb()
    began = time.perf_counter()
    count = 0
    refused: list[int] = []
    with HrFile(path) as file:
        for record in file.records():
            count += 1
            if isinstance(record, RefusedRow):
                refused.append(record.line)
    seconds = time.perf_counter() - began
    grown = _peak_memory_mb() - before
    print(f"read {count} rows in {seconds:.1f} s: {count / seconds:,.0f} rows/s, memory grew by {grown:.0f} MB")
    if refused != expected:
        raise SystemExit("the refused lines are not the planted ones")


def _peak_memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
