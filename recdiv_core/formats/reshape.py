"""Functions that turn the rows of a published file into events or items.

They are needed where a mapping of columns is not enough. The functions are in
adapters/layout_rows.py, and adapters/layouts.yaml says which file needs which. A Reshape travels
with a file to the process that reads it. It gets tables with the file's own columns and the
position of each row, and keeps the positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

Side = Mapping[str, tuple[str, ...]]
"""Name of a side table -> paths of its files."""
Rows = Callable[[pa.Table, Side], pa.Table]


@dataclass(frozen=True)
class Reshape:
    """Functions on Arrow tables, defined at the top level of a module.

    `rows` is applied to each batch, `whole` once to all batches together; `side` are files that
    they read besides.
    """

    rows: Rows
    whole: Rows | None = None
    side: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def apply(self, table: pa.Table) -> pa.Table:
        """Apply `rows` to one batch."""
        return self.rows(table, dict(self.side))

    def finish(self, tables: Sequence[pa.Table]) -> pa.Table:
        """Apply `whole` to all batches together."""
        table = pa.concat_tables(tables, promote_options="permissive")
        return table if self.whole is None else self.whole(table, dict(self.side))

    def columns(self, header: Sequence[str], place: str) -> list[str]:
        """Return the column names that result from a file with this header."""
        fields = [*((name, pa.string()) for name in header), (place, pa.int64())]
        made = self.finish([self.apply(pa.schema(fields).empty_table())])
        return [name for name in made.column_names if name != place]
