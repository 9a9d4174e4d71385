"""Places that hold files: a path of this machine, or a URI of a store (s3://, gs://, file://, ...).

Not the reading of what lies there. The one idea: every key that takes a path takes a URI too, and
this module alone turns one into (pyarrow filesystem, path inside it). A URI may carry what pyarrow
takes in its query: `s3://bucket/key?endpoint_override=127.0.0.1:9000&scheme=http`. For S3 the
endpoint may also come from the environment (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL). Keys may be
written as they are: blanks and letters outside ASCII are escaped here.
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
"""What Hadoop and gcsfs call the stores that pyarrow calls s3 and gs."""

QUERY: Final = re.compile(r"\?(?=[A-Za-z_]+=)")
"""Where options begin. Another question mark is a part of the name, or of a glob."""


def is_uri(place: str | Path) -> bool:
    """Tell whether a place is a URI, not a path.

    >>> is_uri("s3://bucket/shop"), is_uri("/data/shop")
    (True, False)
    """
    return "://" in str(place)


def filesystem_of(place: str | Path, key: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """Return the filesystem that a place is in, and its path there.

    Args:
        place: path or URI; of a path `~` is expanded, and it is made absolute.
        key: dotted key or option that gave it, for the message.

    Raises:
        UserError: no such store, a wrong option, or a store that does not answer.
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
    """Return a place as another process may take it: a URI as it is, a path absolute."""
    return str(place) if is_uri(place) else filesystem_of(place, key)[1]


def joined(place: str, *names: str) -> str:
    """Return the place of a name below a directory; the options of a URI stay at its end.

    >>> joined("s3://bucket/runs?region=eu-west-1", "first", "result.json")
    's3://bucket/runs/first/result.json?region=eu-west-1'
    >>> joined("runs", "first")
    'runs/first'
    """
    head, options = split_options(place)
    return "/".join([head.rstrip("/") or head, *names]) + options


def sibling(place: str, path: str) -> str:
    """Return the URI of another path inside the store of a URI, as `filesystem_of` returns paths.

    >>> sibling("s3://bucket/log/*.csv?region=eu-west-1", "bucket/log/may 1.csv")
    's3://bucket/log/may%201.csv?region=eu-west-1'
    """
    head, options = split_options(place)
    return f"{head.partition('://')[0]}://{quote(path)}{options}"


def split_options(place: str) -> tuple[str, str]:
    """Split a URI into what names the place and its options, with their question mark.

    >>> split_options("s3://bucket/log/?.csv?region=eu-west-1")
    ('s3://bucket/log/?.csv', '?region=eu-west-1')
    """
    found = QUERY.search(place) if is_uri(place) else None
    return (place, "") if found is None else (place[: found.start()], place[found.start() :])


def name_of(place: str | Path) -> str:
    """Return the last name of a place, as it is in its store.

    >>> name_of("s3://bucket/log/may%201.csv.gz?region=eu-west-1")
    'may 1.csv.gz'
    """
    last = split_options(str(place))[0].rstrip("/").rpartition("/")[2]
    return unquote(last) if is_uri(place) else last


def _escaped(uri: str) -> str:
    """Return the URI with every character escaped that pyarrow would refuse or cut the path at."""
    head, options = split_options(uri)
    scheme, _, rest = head.partition("://")
    rest = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", rest)
    rest = quote(rest, safe="/:@%!$&'()*+,;=~")
    return f"{SCHEMES.get(scheme, scheme)}://{rest}{options}"
