"""Measure how fast CSV files are read with every line checked, beside pandas and DuckDB.

    python -m benchmarks.reading
    python -m benchmarks.reading --quick

Three logs of 1,000,000 lines (100,000 with --quick): clean, every field quoted, and an unclosed
quotation mark in each thousandth line. All columns are read as text. Prints one JSON line: rows per
second of CPU time (median of five), and the rows that each reader finds; null = not installed.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from recdiv_core.formats import readers
from recdiv_core.formats.files import list_files

NAMES: tuple[str, ...] = ("user_id", "item_id", "timestamp", "event", "query")


def write_logs(root: Path, num_rows: int) -> dict[str, Path]:
    """Write the three logs."""
    made: dict[str, Path] = {}
    for kind in ("clean", "quoted", "stray"):
        made[kind] = root / f"{kind}.csv"
        mark = '"' if kind == "quoted" else ""
        with made[kind].open("w") as file:
            file.write(",".join(NAMES) + "\n")
            for k in range(num_rows):
                stray = '"' if kind == "stray" and k % 1000 == 0 else ""
                row = (f"u{k % 50_021}", f"i{k % 20_011}", str(1_700_000_000 + k), "click")
                cells = [f"{mark}{cell}{mark}" for cell in (*row, f"{stray}red shoes {k % 97}")]
                file.write(",".join(cells) + "\n")
    return made


def read_ours(path: Path) -> int:
    """Count the rows that `prepare` reads."""
    files = list_files(str(path), "data.clicks")
    (unit,) = readers.cut_units(files, "data.clicks")
    columns = dict(zip(NAMES, NAMES, strict=True))
    return sum(batch.table.num_rows for batch in readers.read_unit(unit, columns))


def read_pandas(path: Path) -> int:
    """Count the rows of pandas with its C engine."""
    return len(pd.read_csv(path, dtype=str, engine="c"))


def read_duckdb(path: Path) -> int:
    """Count the rows of DuckDB, which stores rejected lines."""
    duckdb = importlib.import_module("duckdb")
    query = "select * from read_csv(?, all_varchar=true, store_rejects=true)"
    return duckdb.connect().execute(query, [str(path)]).to_arrow_table().num_rows


def measure(read: Callable[[Path], int], path: Path, times: int) -> tuple[float, int]:
    """Return the median of CPU seconds, and the rows found."""
    spent: list[float] = []
    num_rows = read(path)
    for _ in range(times):
        started = time.process_time()
        read(path)
        spent.append(time.process_time() - started)
    return statistics.median(spent), num_rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    num_rows = 100_000 if parser.parse_args().quick else 1_000_000
    arms = {"ours": read_ours, "pandas": read_pandas, "duckdb": read_duckdb}
    result: dict[str, object] = {"num_rows": num_rows, "cpu": platform.machine()}
    with tempfile.TemporaryDirectory() as root:
        for kind, path in write_logs(Path(root), num_rows).items():
            for name, read in arms.items():
                if name == "duckdb" and not importlib.util.find_spec("duckdb"):
                    result[f"{kind}_{name}"] = None
                    continue
                seconds, found = measure(read, path, 5)
                rate = round(num_rows / seconds)
                result[f"{kind}_{name}"] = {"rows_per_s": rate, "rows": found}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
