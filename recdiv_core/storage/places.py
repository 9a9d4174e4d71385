"""Places that hold files: a local path, or a URI of a store (s3://, gs://, file://, ...).

Every key that takes a path takes a URI too. Only this module turns a place into (pyarrow
filesystem, path inside it). The query of a URI may hold pyarrow's options:
`s3://bucket/key?endpoint_override=127.0.0.1:9000&scheme=http`. For S3 the endpoint may also come
from the environment (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL). Blanks and letters outside ASCII are
escaped here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.fs

from recdiv_core.errors import UserError
from recdiv_core.storage.credentials import redact

SCHEMES: Final = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}
"""Scheme of Hadoop or gcsfs -> scheme of pyarrow."""

QUERY: Final = re.compile(r"\?(?=[A-Za-z_]+=)")
"""Start of the options. Any other question mark belongs to the name, or to a glob."""


def is_uri(place: str | Path) -> bool:
    """Return whether a place is a URI rather than a path.

    >>> is_uri("s3://bucket/shop"), is_uri("/data/shop")
    (True, False)
    """
    return "://" in str(place)


def filesystem_of(place: str | Path, key: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """Return the file system of a place, and the path inside it.

    `~` is expanded, and a path is made absolute; `key` is for messages.

    Raises:
        UserError: an unknown store, a wrong option, or a store that does not answer.
    """
    if not is_uri(place):
        return pyarrow.fs.LocalFileSystem(), str(Path(place).expanduser().absolute())
    try:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(_escaped(str(place)))
    except (OSError, pa.ArrowException, ValueError) as error:
        reason = redact(str(error)).splitlines()[0]
        raise UserError(f"{key}={redact(str(place))} cannot be opened: {reason}") from None
    if not path:
        raise UserError(f"{key}={redact(str(place))} names no bucket: write s3://BUCKET/KEY")
    return filesystem, path


def absolute_place(place: str | Path, key: str) -> str:
    """Return a place that another process can use: a URI as it is, a path made absolute."""
    return str(place) if is_uri(place) else filesystem_of(place, key)[1]


def joined(place: str, *names: str) -> str:
    """Return a place below a directory; the options of a URI stay at its end.

    >>> joined("s3://bucket/runs?region=eu-west-1", "first", "result.json")
    's3://bucket/runs/first/result.json?region=eu-west-1'
    >>> joined("runs", "first")
    'runs/first'
    """
    head, options = split_options(place)
    return "/".join([head.rstrip("/") or head, *names]) + options


def sibling(place: str, path: str) -> str:
    """Return the URI of another path in the same store; the path is one of `filesystem_of`.

    >>> sibling("s3://bucket/log/*.csv?region=eu-west-1", "bucket/log/may 1.csv")
    's3://bucket/log/may%201.csv?region=eu-west-1'
    """
    head, options = split_options(place)
    return f"{head.partition('://')[0]}://{quote(path)}{options}"


def split_options(place: str) -> tuple[str, str]:
    """Split a URI into the place and its options; the options keep their question mark.

    >>> split_options("s3://bucket/log/?.csv?region=eu-west-1")
    ('s3://bucket/log/?.csv', '?region=eu-west-1')
    """
    found = QUERY.search(place) if is_uri(place) else None
    return (place, "") if found is None else (place[: found.start()], place[found.start() :])


def name_of(place: str | Path) -> str:
    """Return the last name of a place, unescaped.

    >>> name_of("s3://bucket/log/may%201.csv.gz?region=eu-west-1")
    'may 1.csv.gz'
    """
    last = split_options(str(place))[0].rstrip("/").rpartition("/")[2]
    return unquote(last) if is_uri(place) else last


def _escaped(uri: str) -> str:
    """Escape every character that pyarrow would refuse, or would end the path at."""
    head, options = split_options(uri)
    scheme, _, rest = head.partition("://")
    rest = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", rest)
    rest = quote(rest, safe="/:@%!$&'()*+,;=~")
    return f"{SCHEMES.get(scheme, scheme)}://{rest}{options}"
