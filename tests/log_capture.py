"""The fixture `caplog`, for the tests that read log lines.

Pytest's own plugin of that name adds handlers to all loggers six times per test, whether the test
reads them or not: a tenth of a short test's time. Where no test reads them, Python prints warnings
to stderr, which pytest shows below a failure.
"""

import contextlib
import logging
from collections.abc import Iterator

import pytest


class LogCapture(logging.Handler):
    """The log records of a test."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self._levels: dict[logging.Logger, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        record.message = record.getMessage()
        self.records.append(record)

    @property
    def messages(self) -> list[str]:
        return [record.message for record in self.records]

    @property
    def text(self) -> str:
        lines = (f"{own.levelname} {own.name}: {self.format(own)}\n" for own in self.records)
        return "".join(lines)

    def set_level(self, level: int | str, logger: str | None = None) -> None:
        """Set the level of a logger, the root by default, until the test ends."""
        given = logging.getLogger(logger)
        self._levels.setdefault(given, given.level)
        given.setLevel(level)

    @contextlib.contextmanager
    def at_level(self, level: int | str, logger: str | None = None) -> Iterator[None]:
        """Set the level of a logger, the root by default, within a block."""
        before = logging.getLogger(logger).level
        self.set_level(level, logger)
        try:
            yield
        finally:
            logging.getLogger(logger).setLevel(before)

    def restore(self) -> None:
        for given, level in self._levels.items():
            given.setLevel(level)


@pytest.fixture
def caplog() -> Iterator[LogCapture]:
    """Return the log records from here to the end of the test."""
    capture = LogCapture()
    root = logging.getLogger()
    root.addHandler(capture)
    yield capture
    root.removeHandler(capture)
    capture.restore()
