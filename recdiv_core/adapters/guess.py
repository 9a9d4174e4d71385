# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Guess the role of each column: user, item, time, kind of event, title and so on.

The evidence is the name of a column and its values in a sample. Each guess states its evidence, and
ambiguous cases become questions to the user. look.py decides which file is the log.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from recdiv_core.formats import month_names
from recdiv_core.formats.values import as_numbers, as_prices, as_text
from recdiv_core.wording import counted

ROLES: Final[Mapping[str, str]] = {
    "user_id": "user users uid customer client visitor member shopper buyer account reviewer "
    "cookie person cust fullvisitor device anonymous email customeremail useremail emailaddress",
    "item_id": "item items product article sku asin movie track song book news offer goods stock "
    "stockcode object content aid iid pid ean gtin parentasin productcode variant listing",
    "timestamp": "timestamp time ts date datetime eventtime eventdate createdat created when tdat "
    "eventtimestamp invoicedate orderdate purchasedate unixreviewtime unixtime occurredat "
    "servertime dt day",
    "event": "event eventtype eventname action actionname actiontype behavior behaviour type kind "
    "behaviortype behaviourtype interaction interactiontype activity",
    "query": "query search searchterm searchquery searchstring keyword keywords userquery q term",
    "session_id": "session sessionid visit visitid usersession order orderid invoice invoiceno "
    "basket basketid transaction",
    "position": "position rank pos slot place ordinal",
    "rating": "rating stars overall score",
    "title": "title name productname itemname prodname movietitle articlename label producttitle "
    "displayname trackname artistname headline",
    "category": "category categories genre genres categorycode categorypath categoryname class "
    "department producttype producttypename taxonomy breadcrumb section categoryid",
    "brand": "brand brandname manufacturer store vendor maker label artist publisher",
    "colour": "colour color colourname colorname colourgroupname basecolour",
    "price": "price unitprice listprice saleprice cost amount",
    "image": "image imageurl imurl picture thumbnail img",
    "available_from": "availablefrom releasedate launchdate publisheddate firstseen onlinesince",
    "available_until": "availableuntil availableto enddate offsale discontinued onlineuntil",
}
"""Our name -> names that shops use for such a column, without case and punctuation."""
OF_LOG: Final = (
    *("user_id", "item_id", "timestamp", "event", "query", "session_id", "position", "rating"),
)
DATES: Final = ("available_from", "available_until")
OF_ITEMS: Final = (
    *("item_id", "title", "category", "brand", "colour", "price", "image"),
    *DATES,
)
KINDS: Final[Mapping[str, str]] = {
    "impression": "impression impressions impr shown show exposure displayed",
    "click": "click clicks view views pv viewed detail detailview productview viewproduct viewitem "
    "pageview productdetail watch open read play listen select selectitem pdp clicked visit",
    "cart": "cart carts addtocart addtobasket basket atc addcart addedtocart add",
    "purchase": "purchase purchases buy buys order orders transaction transactions checkout sale "
    "purchased bought paid ordercompleted conversion",
    "drop": "removefromcart removefrombasket remove return refund cancel cancelled login logout "
    "scroll hover producthover onsearch search pagehide sessionstart",
}
"""Our kind of event -> words that shops use for it."""
TIME_SHAPES: Final = re.compile(
    r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([T ][0-9:.]+ ?(UTC|Z|[+-][0-9:]{2,6})?)?"
    r"|[0-9]{1,2}[/.-][0-9]{1,2}[/.-][0-9]{2,4}([T ].*)?|20[0-9]{6}|[0-9]{4}/[0-9]{2}/[0-9]{2}.*"
    rf"|{month_names.DATE}\b.*",
    re.IGNORECASE,
)
DAY: Final = (
    r"(?i)^\s*(20[0-9]{6}|[0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]{1,4}"
    rf"|{month_names.DATE})\s*$"
)
"""Pattern of a date without a time of day."""
CLOCK: Final = r"^\s*[0-9]{1,2}:[0-9]{2}(:[0-9]{2}([.][0-9]+)?)?\s*$"
"""Pattern of a time of day without a date."""
PARTED: Final = re.compile(
    r"([0-9]{1,2})([/.-])([0-9]{1,2})\2([0-9]{4}|[0-9]{2})"
    r"(?:([T ])[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?( ?[AaPp][Mm])?)?"
)
EPOCHS: Final = {"seconds": 1, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
YEARS: Final = (631_152_000, 2_208_988_800)
"""1990 and 2040 in seconds; a number between them, in some unit, may be a time."""


@dataclass(frozen=True)
class Column:
    """One column of a sample.

    Attributes:
        name: name in the file, dotted for a field of a nested column.
        values: [N] string, null = missing.
        is_time: whether the type is a time.
        is_listed: whether the column is in a list of events.
    """

    name: str
    values: pa.Array
    is_time: bool = False
    is_listed: bool = False

    @property
    def num_distinct(self) -> int:
        """Return the number of different values."""
        return len(pc.unique(self.values.drop_null()))

    def first(self, number: int = 3) -> list[str]:
        """Return the first few different values."""
        return pc.unique(self.values.drop_null()).slice(0, number).to_pylist()


@dataclass(frozen=True)
class Guess:
    """Role of a column, and the evidence."""

    column: str
    evidence: str
    score: float


def columns_of(table: pa.Table, leave_out: Sequence[str] = ()) -> list[Column]:
    """Return the columns of a sample, nested fields with dotted names."""
    found: list[Column] = []
    for name in table.column_names:
        if name not in leave_out:
            found += _fields(name, table[name].combine_chunks(), is_listed=False)
    return found


def _fields(name: str, array: pa.Array, *, is_listed: bool) -> list[Column]:
    kind = array.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if is_list and pa.types.is_struct(kind.value_type):
        return _fields(name, pc.list_flatten(array), is_listed=True)
    if pa.types.is_struct(kind):
        return [
            column
            for index, field in enumerate(kind)
            for column in _fields(
                f"{name}.{field.name}", pc.struct_field(array, [index]), is_listed=is_listed
            )
        ]
    try:
        return [Column(name, as_text(array), pa.types.is_temporal(kind), is_listed)]
    except pa.ArrowException:  # a type without a text, such as a map
        return []


def guess_roles(columns: Sequence[Column], roles: Sequence[str]) -> dict[str, Guess]:
    """Assign each role its best column; surest roles first, one role a column."""
    is_log = "timestamp" in roles
    has_lists = any(column.is_listed for column in columns)
    scored = [
        (score, -place, role, column, evidence)
        for place, column in enumerate(columns)
        for role in roles
        for is_event in [is_log and column.is_listed == has_lists]
        for score, evidence in [_score(column, role, is_event=is_event)]
        if score >= 1.0
    ]
    found: dict[str, Guess] = {}
    taken: set[str] = set()
    for score, _, role, column, evidence in sorted(scored, key=lambda s: s[:2], reverse=True):
        if role not in found and column.name not in taken:
            found[role] = Guess(column.name, evidence, score)
            taken.add(column.name)
    if is_log and "timestamp" not in found:
        _take_order(columns, found)
    return found


def _take_order(columns: Sequence[Column], found: dict[str, Guess]) -> None:
    """Read whole numbers in a column `order` or `timestamp` as the order of events.

    `order` is no order id then. `prepare` reads columns of these names alike (timestamps.py).
    """
    named = (column for column in columns if column.name.casefold() in ("timestamp", "order"))
    order = next(named, None)
    if order is None or not all(value.isdecimal() for value in order.first(1000)):
        return
    for role in [role for role, guess in found.items() if guess.column == order.name]:
        del found[role]
    found["timestamp"] = Guess(order.name, "order numbers", 1.0)


def _score(column: Column, role: str, *, is_event: bool) -> tuple[float, str]:
    """Return how well a column fits a role, from 0, and the evidence.

    Args:
        column: column of the sample.
        role: one of our names.
        is_event: whether the column has a value per event; else per item or per list of events.
    """
    by_name = _score_name(column.name, role)
    values = column.values.drop_null()
    if is_event and role in ("user_id", "item_id") and len(values) >= 50:
        by_name -= 1.0 * (column.num_distinct == len(values))  # the number of an event
    if not len(values) or (role in DATES and time_share(column)[0] < 1.0):
        return 0.0, ""  # `prepare` refuses a date on sale that is none
    if role == "timestamp":
        share, how = time_share(column)
        if share < 0.5:
            return 0.0, ""
        is_day = share_like(values, DAY) > 0.5  # a time of day says more
        return by_name + (2.0 - is_day) * share, f"{share:.0%} of the values are times ({how})"
    if role == "event":
        share = share_of_kinds(values)
        if column.num_distinct > 50 or (not share and by_name < 2.0):
            return 0.0, ""
        return by_name + 2.0 * share, counted(column.num_distinct, "word")
    if role in ("price", "rating", "position"):
        read = as_prices if role == "price" else as_numbers
        share = 1.0 - read(pc.utf8_trim_whitespace(values)).null_count / len(values)
        return (by_name if share > 0.5 else 0.0), f"{share:.0%} of the values are numbers"
    if role in ("user_id", "item_id") and time_share(column)[0] > 0.9 and by_name < 2.0:
        return 0.0, ""
    if by_name and role in ("user_id", "item_id"):
        said = counted(column.num_distinct, "value")
        return by_name, f"{said} in {counted(len(column.values), 'row')}"
    return by_name, f"e.g. {', '.join(map(repr, column.first(2)))[:80]}"


def _score_name(name: str, role: str) -> float:
    """Return how well a name fits a role: 3 = one of its usual names, 0 = not at all."""
    name = name.strip(". ")  # `Customer No.` is no field of a nested column
    parent, _, last = name.rpartition(".")
    last = last.strip()  # `Cust. ID`
    if parent and last.lower() in ("id", "name"):  # `customer.id` is a customer_id
        last = f"{parent.rpartition('.')[2]}_{last}"
    plain = _plain(last)
    words = [_plain(word) for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+", name)]
    usual = ROLES[role].split()
    if _plain(role) == plain:
        return 3.5
    if role in ("user_id", "item_id"):
        bare = re.sub(r"(id|key|no|code|hash|number)$", "", plain)
        if plain in usual or bare in usual:
            return 3.0 if plain != bare or plain in ("asin", "sku", "stockcode", "aid") else 2.0
        if plain == "id" and role == "item_id":
            return 1.1
        return 1.5 if any(word in usual for word in words) and words[-1] in ("id", "key") else 0.0
    if plain in usual:
        return 3.0
    return 1.2 if words and words[-1] in usual and role != "event" else 0.0


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.partition(":")[0].lower())


def time_share(column: Column) -> tuple[float, str]:
    """Return the share of values that may be times, and their format."""
    values = pc.utf8_trim_whitespace(column.values.drop_null())
    if column.is_time:
        return 1.0, "typed"
    if not len(values):
        return 0.0, ""
    shaped = sum(bool(TIME_SHAPES.fullmatch(text)) for text in values.slice(0, 500).to_pylist())
    share = shaped / min(len(values), 500)
    if share > 0.5:
        return share, f"written as {values[0].as_py()!r}"
    numbers = [float(t) for t in values.slice(0, 500).to_pylist() if is_number(t)]
    if len(numbers) < 0.5 * min(len(values), 500):
        return 0.0, ""
    for unit, scale in EPOCHS.items():
        within = sum(YEARS[0] * scale <= number <= YEARS[1] * scale for number in numbers)
        if within > 0.5 * len(numbers):
            return within / min(len(values), 500), f"{unit} since 1970"
    return 0.0, ""


def is_number(text: str) -> bool:
    """Return whether a text is a number, with a decimal point or an exponent."""
    return bool(re.fullmatch(r"-?[0-9]+(\.[0-9]*)?(e[+-]?[0-9]+)?", text, re.IGNORECASE))


def share_like(values: pa.Array, pattern: str) -> float:
    """Return the share of values in which a regular expression is found, in [0, 1]."""
    return pc.mean(pc.match_substring_regex(values, pattern).cast(pa.float64())).as_py() or 0.0


def share_of_kinds(values: pa.Array) -> float:
    """Return the share of words that are kinds of event that we know, in [0, 1]."""
    words = values.slice(0, 2000).to_pylist()
    return sum(kind_of(word) is not None for word in words) / len(words)


def kind_of(word: str) -> str | None:
    """Return our kind of event for a word, or `drop` if the event is no choice of an item.

    >>> kind_of("add_to_cart"), kind_of("pv"), kind_of("zoomed")
    ('cart', 'click', None)
    """
    return next((ours for ours, words in KINDS.items() if _plain(word) in words.split()), None)


def guess_time_format(values: Sequence[str]) -> tuple[str, str]:
    """Return the strptime format of dates such as 31/12/2020, and an alternative format.

    Both are empty if no format is needed; the second is empty if the first is certain.

    >>> guess_time_format(["31/12/2020 8:05", "01/02/2020 9:00"])
    ('%d/%m/%Y %H:%M', '')
    >>> guess_time_format(["01/02/2020"])
    ('%d/%m/%Y', '%m/%d/%Y')
    """
    found = [match for text in values if (match := PARTED.fullmatch(text.strip()))]
    if len(found) < 0.9 * len(values) or not found:
        return "", ""
    first = found[0]
    mark, year = first[2], "%Y" if len(first[4]) == 4 else "%y"
    clock = ""
    if first[5]:
        hour = "%I" if first[7] else "%H"
        half = (" %p" if first[7].startswith(" ") else "%p") if first[7] else ""
        clock = f"{first[5]}{hour}:%M{':%S' if first[6] else ''}{half}"
    day_first, month_first = (
        f"%{a}{mark}%{b}{mark}{year}{clock}" for a, b in (("d", "m"), ("m", "d"))
    )
    is_day_first = any(int(match[1]) > 12 for match in found)
    is_month_first = any(int(match[3]) > 12 for match in found)
    if is_day_first == is_month_first:
        return day_first, month_first
    return (day_first if is_day_first else month_first), ""


def guess_kinds(column: Column) -> tuple[dict[str, str], dict[str, int], list[str]]:
    """Return the words that need a mapping, the counts of all words, and the unknown words."""
    counts = Counter(text for text in column.values.to_pylist() if text is not None)
    ours = {"impression", "click", "cart", "purchase"}
    known = {word: kind for word in counts if (kind := kind_of(word)) and word not in ours}
    unknown = [word for word in counts if kind_of(word) is None]
    return known, dict(counts.most_common()), unknown


def share_found(log: pa.Array, items: pa.Array) -> tuple[float, str]:
    """Return the share of values of the log that the catalogue has, and the change it needs.

    The change with the largest share wins; it is empty if the values are equal without a change.
    """
    wanted: list[str] = pc.unique(log.drop_null()).to_pylist()
    there: list[str] = pc.unique(items.drop_null()).to_pylist()
    if not wanted or not there:
        return 0.0, ""
    best, best_change = 0.0, ""
    for change, function in CHANGES.items():
        known = {function(text) for text in there}
        share = sum(function(text) in known for text in wanted) / len(wanted)
        if share > best + 0.01:
            best, best_change = share, change
    return best, best_change


UNDONE: Final = ("capital letters ignored", "leading zeros removed")
"""Changes of ids that `prepare` does not make."""
CHANGES: Final[Mapping[str, Any]] = {
    "": lambda text: text,
    "blanks removed": str.strip,
    "1.0 taken for 1": lambda text: re.sub(r"\.0+$", "", text.strip()),
    "capital letters ignored": lambda text: text.strip().lower(),
    "leading zeros removed": lambda text: text.strip().lstrip("0"),
}
