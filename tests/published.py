"""Files in the layouts of well-known public data sets: about twenty rows each, made up.

Names, separators, headers, encodings and types follow docs/layouts.md; the values are ours. An
entry names the function that writes a data set and the expected content.
"""

import gzip
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

FIRST_S = 1_400_000_000  # 2014-05-13 16:53:20 UTC
GENRES = 19


@dataclass(frozen=True)
class Published:
    """A data set and its expected content."""

    layout: str
    write: Callable[[Path], None]
    kinds: dict[str, int]
    """Expected events by kind; `` = the log has no kinds."""
    num_users: int
    num_items: int
    first: str
    """Time of the first event, or `order`."""
    last: str
    titles: dict[str, str]
    categories: dict[str, str] = field(default_factory=dict)
    dropped: int = 0
    """Number of rows that the layout leaves out."""
    columns: dict[str, int] = field(default_factory=dict)
    """Further columns of the log -> number of rows with a value."""


def rows():
    """Return twenty (user, item, row): 5 users with 4 of 5 items each, in order of time."""
    return [(1 + n % 5, 1 + (n + n // 5) % 5, n) for n in range(20)]


def lines(path, values, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{value}\n" for value in values).encode(encoding))


def json_gz(path, values):
    path.write_bytes(gzip.compress("".join(json.dumps(v) + "\n" for v in values).encode()))


def movielens_100k(root):
    lines(root / "u.data", [f"{u}\t{i}\t{1 + n % 5}\t{FIRST_S + n}" for u, i, n in rows()])
    flags = [[0] * GENRES for _ in range(5)]
    flags[0][3] = flags[0][4] = 1
    flags[3][0] = 1
    titles = ("Toy Story (1995)", "GoldenEye (1995)", "Les Misérables (1995)", "unknown", "Se7en")
    lines(
        root / "u.item",
        [
            f"{i + 1}|{title}|01-Jan-1995||http://us.imdb.com/M?{i}|" + "|".join(map(str, flags[i]))
            for i, title in enumerate(titles)
        ],
        "latin-1",
    )
    lines(root / "u.genre", ["unknown|0", "Action|1"])
    lines(root / "u.user", ["1|24|M|technician|85711"])
    lines(root / "README", ["SUMMARY & USAGE LICENSE"])


def movielens_1m(root):
    lines(root / "ratings.dat", [f"{u}::{i}::{1 + n % 5}::{FIRST_S + n}" for u, i, n in rows()])
    lines(
        root / "movies.dat",
        [
            "1::Toy Story (1995)::Animation|Children's|Comedy",
            "2::Jumanji (1995)::Adventure",
            "3::Misérables, Les (1995)::Drama|Musical",
            '4::"Great" Escape: The, 1963::Adventure|War',
            "5::Heat (1995)::Action",
        ],
        "latin-1",
    )
    lines(root / "users.dat", ["1::F::1::10::48067"])


def movielens_20m(root):
    lines(
        root / "ratings.csv",
        ["userId,movieId,rating,timestamp"]
        + [f"{u},{i},{0.5 + n % 5},{FIRST_S + n}" for u, i, n in rows()],
    )
    lines(
        root / "movies.csv",
        [
            "movieId,title,genres",
            "1,Toy Story (1995),Adventure|Animation",
            '2,"American President, The (1995)",Comedy|Drama',
            '3,"""Great Performances"" Cats (1998)",Musical',
            "4,Fargo (1996),(no genres listed)",
            "5,Heat (1995),Action",
        ],
    )
    lines(root / "links.csv", ["movieId,imdbId,tmdbId", "1,0114709,862"])
    lines(root / "tags.csv", ["userId,movieId,tag,timestamp", "1,1,fun,1400000000"])


def amazon_2014(root):
    json_gz(
        root / "reviews_Beauty_5.json.gz",
        [
            {
                "reviewerID": f"A{u}",
                "asin": f"B00000000{i}",
                "reviewerName": "J. McDonald",
                "helpful": [2, 3],
                "reviewText": "I bought this.",
                "overall": 5.0,
                "summary": "Heavenly",
                "unixReviewTime": FIRST_S + 86400 * n,
                "reviewTime": "09 13, 2009",
            }
            for u, i, n in rows()
        ],
    )
    meta = [
        {
            "asin": f"B00000000{i}",
            "title": f"Brush No. {i}",
            "price": 3.17 * i,
            "imUrl": "http://images/1.jpg",
            "related": {"also_bought": ["B000000001"]},
            "salesRank": {"Beauty": 211836},
            "brand": "Lash's",
            "categories": [["Beauty", "Tools", "Brushes"], ["Gifts"]],
        }
        for i in range(1, 6)
    ]
    del meta[4]["title"], meta[4]["price"], meta[4]["brand"]
    content = "".join(f"{row!r}\n" for row in meta).encode()
    (root / "meta_Beauty.json.gz").write_bytes(gzip.compress(content))


def amazon_2018(root):
    json_gz(
        root / "All_Beauty_5.json.gz",
        [
            {
                "overall": 4.0,
                "vote": "5",
                "verified": True,
                "reviewTime": "01 1, 2018",
                "reviewerID": f"A{u}",
                "asin": f"B0000{i}",
                "style": {"Size:": " 9"},
                "reviewerName": "Amazon Customer",
                "reviewText": "nice",
                "summary": "nice",
                "unixReviewTime": FIRST_S + 86400 * n,
            }
            for u, i, n in rows()
        ],
    )
    json_gz(
        root / "meta_All_Beauty.json.gz",
        [
            {
                "category": ["Beauty", "Hair", "Brushes"] if i < 5 else [],
                "tech1": "",
                "description": ["A brush"],
                "title": f"Brush {i}",
                "also_buy": [],
                "brand": "Loud 'N Clear",
                "rank": "2,938,573 in Beauty (",
                "price": "$1,013.99" if i == 1 else "",
                "asin": f"B0000{i}",
            }
            for i in range(1, 6)
        ],
    )


def amazon_2023(root):
    json_gz(
        root / "All_Beauty.jsonl.gz",
        [
            {
                "rating": 5.0,
                "title": "Such a lovely scent",
                "text": "I bought this",
                "images": [],
                "asin": f"B00V{i}",
                "parent_asin": f"B00P{i}",
                "user_id": f"AGK{u}",
                "timestamp": (FIRST_S + n) * 1000 + 123,
                "helpful_vote": 0,
                "verified_purchase": True,
            }
            for u, i, n in rows()
        ],
    )
    json_gz(
        root / "meta_All_Beauty.jsonl.gz",
        [
            {
                "main_category": "All Beauty",
                "title": f"Howard LC{i} Leather Conditioner",
                "average_rating": 4.8,
                "rating_number": 10,
                "features": [],
                "description": [],
                "price": 9.99 if i % 2 else None,
                "images": [{"thumb": "https://m/1.jpg"}],
                "videos": [],
                "store": "Howard Products",
                "categories": [] if i < 5 else ["Beauty", "Care"],
                "details": {"Package Dimensions": "7 x 5"},
                "parent_asin": f"B00P{i}",
                "bought_together": None,
            }
            for i in range(1, 6)
        ],
    )


def retailrocket(root):
    kinds = ["view"] * 14 + ["addtocart"] * 4 + ["transaction"] * 2
    lines(
        root / "events.csv",
        ["timestamp,visitorid,event,itemid,transactionid"]
        + [
            f"{(FIRST_S + n) * 1000 + 7},{u},{kinds[n]},{i},{n if n > 17 else ''}"
            for u, i, n in rows()
        ],
    )
    head = "timestamp,itemid,property,value"
    lines(
        root / "item_properties_part1.csv",
        [
            *(head, "1435460400000,1,categoryid,1338"),
            "1441508400000,2,888,1116713 960601 n277.200",
            *("1435460400000,3,categoryid,20", "1435460400000,4,categoryid,20"),
        ],
    )
    lines(
        root / "item_properties_part2.csv",
        [
            *(head, "1439089200000,1,categoryid,213", "1433041200000,2,categoryid,1338"),
            *("1433041200000,4,available,1", "1433041200000,5,790,n15360.000"),
        ],
    )
    lines(root / "category_tree.csv", ["categoryid,parentid", "1338,213", "213,9", "9,", "20,"])


def yoochoose(root):
    contexts = ("0", "S", "5", "2089072839")
    lines(
        root / "yoochoose-clicks.dat",
        [f"{u},2014-04-07T10:51:{n:02}.277Z,21453650{i},{contexts[n % 4]}" for u, i, n in rows()],
    )
    lines(
        root / "yoochoose-buys.dat",
        [
            "1,2014-04-07T10:58:00.306Z,214536501,10471,1",
            "2,2014-04-07T10:58:01.306Z,214536502,0,0",
        ],
    )
    lines(root / "yoochoose-test.dat", ["5,2014-04-07T17:13:46.713Z,214530776,0"])


def diginetica(root):
    lines(
        root / "train-item-views.csv",
        ["sessionId;userId;itemId;timeframe;eventdate"]
        + [f"{u};NA;{i};{1000 * n};2016-05-09" for u, i, n in rows()],
    )
    lines(
        root / "train-purchases.csv",
        ["sessionId;userId;timeframe;eventdate;ordernumber;itemId", "1;7;90000;2016-05-09;11;3"],
    )
    lines(
        root / "products.csv",
        ["itemId;pricelog2;product.name.tokens"] + [f"{i};{i};40875,16{i}" for i in range(1, 6)],
    )
    lines(root / "product-categories.csv", ["itemId;categoryId", "1;77", "2;77", "3;9", "4;9"])
    lines(root / "train-queries.csv", ["queryId;sessionId;userId", "1;1;NA"])


def taobao(root):
    kinds = ["pv"] * 14 + ["cart"] * 3 + ["fav", "buy", "buy"]
    lines(
        root / "UserBehavior.csv",
        [f"{u},{i},{i * 100},{kinds[n]},{1_511_544_070 + n}" for u, i, n in rows()],
    )


def rees46(root):
    kinds = ["view"] * 14 + ["cart"] * 3 + ["remove_from_cart", "purchase", "purchase"]
    content = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,"
    content += "user_session\n" + "".join(
        f"2019-10-01 00:00:{n:02} UTC,{kinds[n]},{i},20530135556,"
        f"{'electronics.smartphone' if i < 5 else ''},{'apple' if i < 4 else ''},{i}.50,{u},"
        f"72d76fde-8bb3-4e00-8c23-{u}\n"
        for u, i, n in rows()
    )
    with zipfile.ZipFile(root / "2019-Oct.csv.zip", "w") as archive:
        archive.writestr("2019-Oct.csv", content)


def hm(root):
    lines(
        root / "transactions_train.csv",
        ["t_dat,customer_id,article_id,price,sales_channel_id"]
        + [f"2018-09-{1 + n:02},00005{u}d12,010877501{i},0.0508305,2" for u, i, n in rows()],
    )
    names = (
        "article_id,product_code,prod_name,product_type_no,product_type_name,product_group_name,"
        "graphical_appearance_no,graphical_appearance_name,colour_group_code,colour_group_name,"
        "perceived_colour_value_id,perceived_colour_value_name,perceived_colour_master_id,"
        "perceived_colour_master_name,department_no,department_name,index_code,index_name,"
        "index_group_no,index_group_name,section_no,section_name,garment_group_no,"
        "garment_group_name,detail_desc"
    )
    lines(
        root / "articles.csv",
        [names]
        + [
            f"010877501{i},0108775,Strap top {i},253,Vest top,Garment Upper body,1010016,Solid,09,"
            "Black,4,Dark,5,Black,1676,Jersey Basic,A,Ladieswear,1,Ladieswear,16,Womens Everyday "
            'Basics,1002,Jersey Basic,"Jersey top, with narrow straps."'
            for i in range(1, 6)
        ],
    )
    lines(root / "customers.csv", ["customer_id,FN,Active", "000051d12,,"])


def instacart(root):
    orders = [
        f"{10 * u + k},{u},prior,{k},2,08,{'' if k == 1 else '7.0'}"
        for u in range(1, 6)
        for k in (1, 2)
    ]
    head = (
        "order_id,user_id,eval_set,order_number,order_dow,order_hour_of_day,days_since_prior_order"
    )
    lines(root / "orders.csv", [head, *orders])
    baskets = [(10 * u + 1 + n // 10, i, 1 + n // 5 % 2) for u, i, n in rows()]
    names = "order_id,product_id,add_to_cart_order,reordered"
    lines(
        root / "order_products__prior.csv",
        [names]
        + [f"{order},{item},{place},0" for order, item, place in baskets if order % 10 == 1],
    )
    lines(
        root / "order_products__train.csv",
        [names]
        + [f"{order},{item},{place},1" for order, item, place in baskets if order % 10 == 2],
    )
    lines(
        root / "products.csv",
        [
            "product_id,product_name,aisle_id,department_id",
            *("1,Chocolate Sandwich Cookies,61,19", '2,"Tea, ""Golden"" Oolong",94,7'),
            *("3,All-Seasons Salt,104,13", "4,Pizza,94,7", "5,Gel,61,19"),
        ],
    )
    lines(root / "aisles.csv", ["aisle_id,aisle", "61,cookies cakes", "94,tea", "104,spices"])
    lines(
        root / "departments.csv",
        ["department_id,department", "19,snacks", "7,beverages", "13,pantry"],
    )


def mind(root):
    for part, users in (("train", (1, 2, 3)), ("dev", (4, 5))):
        lines(
            root / f"MINDsmall_{part}" / "behaviors.tsv",
            [
                f"{u}\tU{u}\t11/1{u}/2019 {u}:05:58 PM\tN1 N2\tN1-1 N2-0 N3-0 N{4 + u % 2}-1"
                for u in users
            ],
        )
        lines(
            root / f"MINDsmall_{part}" / "news.tsv",
            [
                f'N{i}\tlifestyle\tlifestyleroyals\tThe "Brands" Queen {i}\tShop\thttps://a/{i}\t[]\t[]'
                for i in range(1, 6)
            ],
        )
    lines(root / "MINDsmall_test" / "behaviors.tsv", ["9\tU9\t11/16/2019 1:00:00 AM\tN1\tN1 N2"])


def otto(root):
    kinds = ["clicks"] * 14 + ["carts"] * 3 + ["orders"] * 3
    sessions = {u: [] for u in range(1, 6)}
    for u, i, n in rows():
        sessions[u].append({"aid": 15_000 + i, "ts": (FIRST_S + n) * 1000 + 5, "type": kinds[n]})
    lines(
        root / "otto-recsys-train.jsonl",
        [json.dumps({"session": u, "events": events}) for u, events in sessions.items()],
    )
    lines(
        root / "otto-recsys-test.jsonl",
        ['{"session": 9, "events": [{"aid": 15001, "ts": 1400000009005, "type": "clicks"}]}'],
    )


RETAIL = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"


def online_retail_rows():
    sold = [
        (
            f"5363{u}",
            f"8512{i}{'Aa'[n > 9]}",
            f"LANTERN {i}",
            6,
            f"12/1/2010 8:{10 + n}",
            2.55,
            17850 + u,
        )
        for u, i, n in rows()
    ]
    return [
        ("536299", "85121A", "damaged", -20, "12/1/2010 8:02", 0, ""),
        *sold[:18],
        ("536378", "POST", "POSTAGE", 1, "12/1/2010 9:40", 18.0, 17851),
        ("C536379", "85121A", "LANTERN 1", -1, "12/1/2010 9:41", 27.5, 17851),
        ("536380", "85122A", "CAFÉ POT £2", 1, "12/1/2010 9:45", 1.25, ""),
    ]


def online_retail_csv(root):
    lines(
        root / "OnlineRetail.csv",
        [RETAIL] + [",".join(map(str, row)) + ",United Kingdom" for row in online_retail_rows()],
        "latin-1",
    )


def lastfm(root):
    lines(
        root / "userid-timestamp-artid-artname-traid-traname.tsv",
        [
            f'user_00000{u}\t2009-05-04T23:08:{n:02}Z\tf1b1cf71-{i}\tDeep "Dish" {i}\t'
            f"{'' if i == 2 else f'tr-{i}'}\tPlants #{i}"
            for u, i, n in rows()
        ],
    )
    lines(root / "userid-profile.tsv", ["id\tgender\tage", "user_000001\tm\t\tJapan"])


def recbole(root):
    lines(
        root / "ml-100k.inter",
        ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
        + [f"{u}\t{i}\t{1 + n % 5}\t{FIRST_S + n}" for u, i, n in rows()],
    )
    lines(
        root / "ml-100k.item",
        ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
        + [f"{i}\tToy Story {i}\t1995\tAnimation Children's" for i in range(1, 6)],
    )
    lines(root / "ml-100k.user", ["user_id:token\tage:token", "1\t24"])


def ubi(root):
    events = [
        {
            "application": "shop",
            "action_name": ["impression", "click", "click", "add_to_cart", "purchase"][n % 5],
            "query_id": f"00112233-{u}",
            "client_id": f"client-{u}",
            "session_id": f"s{u}",
            "timestamp": f"2024-05-23T20:20:{n:02}.000Z",
            "message_type": "INFO",
            "message": "",
            "event_attributes": {
                "object": {
                    "object_id": str(i),
                    "object_id_field": "ean",
                    "description": f"Laptop {i}",
                },
                "position": {"ordinal": n % 5},
            },
        }
        for u, i, n in rows()[:18]
    ]
    asked = {
        "application": "shop",
        "action_name": "on_search",
        "query_id": "00112233-1",
        "client_id": "client-1",
        "timestamp": "2024-05-23T20:19:00.000Z",
        "message": "laptop",
        "event_attributes": {},
    }
    lines(root / "ubi_events.ndjson", map(json.dumps, [*events, asked, asked | {"query_id": "x"}]))
    lines(
        root / "ubi_queries.ndjson",
        [
            json.dumps({"query_id": f"00112233-{u}", "user_query": f"laptop {u}", "client_id": "c"})
            for u in range(1, 4)
        ],
    )


AT = "2014-05-13T16:53:20"
PUBLISHED = (
    Published(
        "movielens-100k",
        movielens_100k,
        {"": 20},
        5,
        5,
        AT,
        "2014-05-13T16:53:39",
        {"1": "Toy Story (1995)", "3": "Les Misérables (1995)"},
        {"1": "Animation|Children's", "4": "unknown"},
    ),
    Published(
        "movielens-1m",
        movielens_1m,
        {"": 20},
        5,
        5,
        AT,
        "2014-05-13T16:53:39",
        {"3": "Misérables, Les (1995)", "4": '"Great" Escape: The, 1963'},
        {"1": "Animation|Children's|Comedy"},
    ),
    Published(
        "movielens-20m",
        movielens_20m,
        {"": 20},
        5,
        5,
        AT,
        "2014-05-13T16:53:39",
        {"2": "American President, The (1995)", "3": '"Great Performances" Cats (1998)'},
        {"2": "Comedy|Drama"},
    ),
    Published(
        "amazon-2014",
        amazon_2014,
        {"": 20},
        5,
        5,
        AT,
        "2014-06-01T16:53:20",
        {"B000000001": "Brush No. 1", "B000000005": ""},
        {"B000000001": "Beauty > Tools > Brushes|Gifts"},
    ),
    Published(
        "amazon-2018",
        amazon_2018,
        {"": 20},
        5,
        5,
        AT,
        "2014-06-01T16:53:20",
        {"B00001": "Brush 1"},
        {"B00001": "Beauty > Hair > Brushes"},
    ),
    Published(
        "amazon-2023",
        amazon_2023,
        {"": 20},
        5,
        5,
        f"{AT}.123000",
        "2014-05-13T16:53:39.123000",
        {"B00P1": "Howard LC1 Leather Conditioner"},
        {"B00P1": "All Beauty", "B00P5": "Beauty > Care"},
    ),
    Published(
        "retailrocket",
        retailrocket,
        {"click": 14, "cart": 4, "purchase": 2},
        5,
        5,
        f"{AT}.007000",
        "2014-05-13T16:53:39.007000",
        {"1": ""},
        {"1": "9 > 213", "2": "9 > 213 > 1338", "3": "20"},
    ),
    Published(
        "yoochoose",
        yoochoose,
        {"click": 20, "purchase": 2},
        5,
        5,
        "2014-04-07T10:51:00.277000",
        "2014-04-07T10:58:01.306000",
        {"214536501": ""},
        {"214536503": "5"},
    ),
    Published(
        "diginetica",
        diginetica,
        {"click": 20, "purchase": 1},
        5,
        5,
        "2016-05-09T00:00:00",
        "2016-05-09T00:01:30",
        {"1": "40875 161"},
        {"1": "77", "3": "9"},
        columns={"session_id": 21},
    ),
    Published(
        "taobao-userbehavior",
        taobao,
        {"click": 15, "cart": 3, "purchase": 2},
        5,
        5,
        "2017-11-24T17:21:10",
        "2017-11-24T17:21:29",
        {"1": ""},
        {"1": "100"},
    ),
    Published(
        "rees46",
        rees46,
        {"click": 14, "cart": 3, "purchase": 2},
        5,
        5,
        "2019-10-01T00:00:00",
        "2019-10-01T00:00:19",
        {"1": ""},
        {"1": "electronics > smartphone"},
        dropped=1,
        columns={"session_id": 19},
    ),
    Published(
        "hm",
        hm,
        {"purchase": 20},
        5,
        5,
        "2018-09-01T00:00:00",
        "2018-09-20T00:00:00",
        {"0108775011": "Strap top 1"},
        {"0108775011": "Ladieswear > Garment Upper body > Vest top"},
    ),
    Published(
        "instacart",
        instacart,
        {"purchase": 20},
        5,
        5,
        "order",
        "order",
        {"2": 'Tea, "Golden" Oolong'},
        {"1": "snacks > cookies cakes", "2": "beverages > tea"},
        columns={"session_id": 20},
    ),
    Published(
        "mind",
        mind,
        {"impression": 10, "click": 10},
        5,
        5,
        "2019-11-11T13:05:58",
        "2019-11-15T17:05:58",
        {"N1": 'The "Brands" Queen 1'},
        {"N1": "lifestyle > lifestyleroyals"},
        dropped=2,
    ),
    Published(
        "otto",
        otto,
        {"click": 14, "cart": 3, "purchase": 3},
        5,
        5,
        f"{AT}.005000",
        "2014-05-13T16:53:39.005000",
        {"15001": ""},
    ),
    Published(
        "online-retail",
        online_retail_csv,
        {"purchase": 18},
        5,
        5,
        "2010-12-01T08:10:00",
        "2010-12-01T08:27:00",
        {"85121A": "LANTERN 1"},
        dropped=4,
        columns={"session_id": 18},
    ),
    Published(
        "lastfm-1k",
        lastfm,
        {"": 20},
        5,
        5,
        "2009-05-04T23:08:00",
        "2009-05-04T23:08:19",
        {
            "tr-1": "Plants #1",
            'Deep "Dish" 2 / Plants #2': "Plants #2",
        },
    ),
    Published(
        "recbole",
        recbole,
        {"": 20},
        5,
        5,
        AT,
        "2014-05-13T16:53:39",
        {"1": "Toy Story 1"},
        {"1": "Animation|Children's"},
    ),
    Published(
        "ubi",
        ubi,
        {"impression": 4, "click": 8, "cart": 3, "purchase": 3},
        5,
        5,
        "2024-05-23T20:20:00",
        "2024-05-23T20:20:17",
        {"1": "Laptop 1"},
        dropped=2,
        columns={"query": 12, "position": 18, "session_id": 18},
    ),
)
