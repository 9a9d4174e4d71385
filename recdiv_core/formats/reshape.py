"""How the rows of a published file become events or items, where naming its columns is not enough.

Not the functions themselves (layout_rows.py) nor which file they are for (layouts.py). A Reshape
travels with a file to whatever process reads it, so it holds names of functions and of files, not
tables. It works on tables as read: the file's own columns, and the place of each row, which it
carries along.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

Side = Mapping[str, tuple[str, ...]]
"""Paths of the files beside the one that is read, by the name of what they hold."""
Rows = Callable[[pa.Table, Side], pa.Table]


@dataclass(frozen=True)
class Reshape:
    """Functions on Arrow tables, defined at the top level of a module.

    Attributes:
        rows: applied to each batch as it is read.
        whole: applied once to all that `rows` made of the file; None = nothing more to do.
        side: the files beside it.
    """

    rows: Rows
    whole: Rows | None = None
    side: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def apply(self, table: pa.Table) -> pa.Table:
        """Return what becomes of one batch."""
        return self.rows(table, dict(self.side))

    def finish(self, tables: Sequence[pa.Table]) -> pa.Table:
        """Return what becomes of all batches together."""
        table = pa.concat_tables(tables, promote_options="permissive")
        return table if self.whole is None else self.whole(table, dict(self.side))

    def columns(self, header: Sequence[str], place: str) -> list[str]:
        """Return the names of the columns that it makes of a file with this header."""
        fields = [*((name, pa.string()) for name in header), (place, pa.int64())]
        made = self.finish([self.apply(pa.schema(fields).empty_table())])
        return [name for name in made.column_names if name != place]
