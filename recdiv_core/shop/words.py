"""The words of the built-in shop: its categories, brands, colours and languages.

goods.py makes the items from them. The one idea: departments hold aisles and aisles hold leaves, in
the order in which people buy them. So the number of a leaf is its position in this order, and its
neighbours go with it. The imported goods of a department have titles in one foreign language.
Foreign words are escapes beside their English, which keeps the source plain ASCII.
"""

from __future__ import annotations

import itertools
from typing import Final, NamedTuple

import numpy as np


class Leaf(NamedTuple):
    """A leaf category: its name, the noun of its titles, its median price and its foreign noun."""

    name: str
    noun: str
    price: float
    foreign: str


class Aisle(NamedTuple):
    """A mid-level category; its leaves are in the order in which people buy them."""

    department: str
    name: str
    materials: tuple[str, ...]
    leaves: tuple[Leaf, ...]


AISLES: Final = (
    Aisle(
        "Home",
        "Kitchen",
        ("steel", "ceramic", "copper", "enamel"),
        (
            Leaf("Kettles", "kettle", 38, "\u30b1\u30c8\u30eb"),
            Leaf("Teapots", "teapot", 27, "\u6025\u9808"),
            Leaf("Mugs", "mug", 11, "\u30de\u30b0\u30ab\u30c3\u30d7"),
            Leaf("Pans", "pan", 45, "\u30d5\u30e9\u30a4\u30d1\u30f3"),
        ),
    ),
    Aisle(
        "Home",
        "Bedroom",
        ("cotton", "linen", "wool", "down"),
        (
            Leaf("Duvets", "duvet", 70, "\u5e03\u56e3"),
            Leaf("Pillows", "pillow", 24, "\u6795"),
            Leaf("Blankets", "blanket", 40, "\u6bdb\u5e03"),
        ),
    ),
    Aisle(
        "Home",
        "Lighting",
        ("brass", "glass", "oak", "paper"),
        (
            Leaf("Table Lamps", "table lamp", 48, "\u5353\u4e0a\u30e9\u30f3\u30d7"),
            Leaf("Ceiling Lights", "ceiling light", 85, "\u5929\u4e95\u7167\u660e"),
            Leaf("Candles", "candle", 12, "\u30ad\u30e3\u30f3\u30c9\u30eb"),
        ),
    ),
    Aisle(
        "Fashion",
        "Shoes",
        ("leather", "suede", "canvas", "mesh"),
        (
            Leaf(
                "Trainers", "trainers", 75, "\u043a\u0440\u043e\u0441\u0441\u043e\u0432\u043a\u0438"
            ),
            Leaf("Boots", "boots", 110, "\u0431\u043e\u0442\u0438\u043d\u043a\u0438"),
            Leaf("Sandals", "sandals", 42, "\u0441\u0430\u043d\u0434\u0430\u043b\u0438\u0438"),
        ),
    ),
    Aisle(
        "Fashion",
        "Clothing",
        ("cotton", "linen", "merino", "denim"),
        (
            Leaf("Shirts", "shirt", 35, "\u0440\u0443\u0431\u0430\u0448\u043a\u0430"),
            Leaf("Jumpers", "jumper", 52, "\u0441\u0432\u0438\u0442\u0435\u0440"),
            Leaf("Jackets", "jacket", 95, "\u043a\u0443\u0440\u0442\u043a\u0430"),
            Leaf("Dresses", "dress", 60, "\u043f\u043b\u0430\u0442\u044c\u0435"),
        ),
    ),
    Aisle(
        "Fashion",
        "Accessories",
        ("leather", "silk", "woven", "silver"),
        (
            Leaf("Belts", "belt", 28, "\u0440\u0435\u043c\u0435\u043d\u044c"),
            Leaf("Scarves", "scarf", 25, "\u0448\u0430\u0440\u0444"),
            Leaf("Watches", "watch", 140, "\u0447\u0430\u0441\u044b"),
        ),
    ),
    Aisle(
        "Electronics",
        "Audio",
        ("wireless", "studio", "noise-cancelling", "hi-fi"),
        (
            Leaf("Headphones", "headphones", 90, "\u8033\u673a"),
            Leaf("Loudspeakers", "loudspeaker", 150, "\u97f3\u7bb1"),
            Leaf("Microphones", "microphone", 80, "\u9ea6\u514b\u98ce"),
        ),
    ),
    Aisle(
        "Electronics",
        "Computing",
        ("aluminium", "ergonomic", "silent", "gaming"),
        (
            Leaf("Laptops", "laptop", 800, "\u7b14\u8bb0\u672c\u7535\u8111"),
            Leaf("Keyboards", "keyboard", 60, "\u952e\u76d8"),
            Leaf("Monitors", "monitor", 220, "\u663e\u793a\u5668"),
            Leaf("Webcams", "webcam", 45, "\u6444\u50cf\u5934"),
        ),
    ),
    Aisle(
        "Electronics",
        "Photography",
        ("mirrorless", "carbon", "wide-angle", "waterproof"),
        (
            Leaf("Cameras", "camera", 520, "\u76f8\u673a"),
            Leaf("Lenses", "lens", 310, "\u955c\u5934"),
            Leaf("Tripods", "tripod", 65, "\u4e09\u811a\u67b6"),
        ),
    ),
    Aisle(
        "Sports",
        "Running",
        ("breathable", "reflective", "seamless", "recycled"),
        (
            Leaf(
                "Running Vests",
                "running vest",
                30,
                "\u043c\u0430\u0439\u043a\u0430 \u0434\u043b\u044f \u0431\u0435\u0433\u0430",
            ),
            Leaf("Water Bottles", "water bottle", 16, "\u0444\u043b\u044f\u0433\u0430"),
            Leaf("Headbands", "headband", 10, "\u043f\u043e\u0432\u044f\u0437\u043a\u0430"),
        ),
    ),
    Aisle(
        "Sports",
        "Cycling",
        ("carbon", "aluminium", "steel", "urban"),
        (
            Leaf(
                "Bicycles", "bicycle", 640, "\u0432\u0435\u043b\u043e\u0441\u0438\u043f\u0435\u0434"
            ),
            Leaf(
                "Helmets", "cycling helmet", 55, "\u0432\u0435\u043b\u043e\u0448\u043b\u0435\u043c"
            ),
            Leaf(
                "Bicycle Lights",
                "bicycle light",
                22,
                "\u0432\u0435\u043b\u043e\u0444\u043e\u043d\u0430\u0440\u044c",
            ),
        ),
    ),
    Aisle(
        "Sports",
        "Camping",
        ("ultralight", "waterproof", "nylon", "four-season"),
        (
            Leaf("Tents", "tent", 180, "\u043f\u0430\u043b\u0430\u0442\u043a\u0430"),
            Leaf(
                "Sleeping Bags",
                "sleeping bag",
                85,
                "\u0441\u043f\u0430\u043b\u044c\u043d\u044b\u0439 \u043c\u0435\u0448\u043e\u043a",
            ),
            Leaf("Rucksacks", "rucksack", 70, "\u0440\u044e\u043a\u0437\u0430\u043a"),
        ),
    ),
    Aisle(
        "Beauty",
        "Skin Care",
        ("aloe", "rose", "oat", "fragrance-free"),
        (
            Leaf(
                "Face Creams",
                "face cream",
                24,
                "\u0643\u0631\u064a\u0645 \u0644\u0644\u0648\u062c\u0647",
            ),
            Leaf(
                "Cleansers",
                "cleanser",
                15,
                "\u063a\u0633\u0648\u0644 \u0644\u0644\u0648\u062c\u0647",
            ),
            Leaf(
                "Sun Lotions",
                "sun lotion",
                18,
                "\u0648\u0627\u0642\u064a \u0627\u0644\u0634\u0645\u0633",
            ),
        ),
    ),
    Aisle(
        "Beauty",
        "Hair Care",
        ("argan", "coconut", "mint", "keratin"),
        (
            Leaf("Shampoos", "shampoo", 12, "\u0634\u0627\u0645\u0628\u0648"),
            Leaf(
                "Conditioners",
                "conditioner",
                13,
                "\u0628\u0644\u0633\u0645 \u0644\u0644\u0634\u0639\u0631",
            ),
            Leaf(
                "Hair Brushes",
                "hair brush",
                17,
                "\u0641\u0631\u0634\u0627\u0629 \u0634\u0639\u0631",
            ),
        ),
    ),
    Aisle(
        "Beauty",
        "Fragrance",
        ("citrus", "amber", "lavender", "sandalwood"),
        (
            Leaf("Perfumes", "perfume", 62, "\u0639\u0637\u0631"),
            Leaf("Soaps", "soap", 8, "\u0635\u0627\u0628\u0648\u0646"),
        ),
    ),
    Aisle(
        "Toys",
        "Games",
        ("family", "strategy", "party", "co-operative"),
        (
            Leaf("Board Games", "board game", 34, "\u30dc\u30fc\u30c9\u30b2\u30fc\u30e0"),
            Leaf("Card Games", "card game", 14, "\u30ab\u30fc\u30c9\u30b2\u30fc\u30e0"),
            Leaf("Jigsaws", "jigsaw", 19, "\u30b8\u30b0\u30bd\u30fc\u30d1\u30ba\u30eb"),
        ),
    ),
    Aisle(
        "Toys",
        "Building",
        ("wooden", "magnetic", "motorised", "starter"),
        (
            Leaf("Building Blocks", "building blocks", 32, "\u7a4d\u307f\u6728"),
            Leaf("Model Trains", "model train", 88, "\u9244\u9053\u6a21\u578b"),
            Leaf(
                "Marble Runs", "marble run", 41, "\u30d3\u30fc\u7389\u30b3\u30fc\u30b9\u30bf\u30fc"
            ),
        ),
    ),
    Aisle(
        "Toys",
        "Soft Toys",
        ("plush", "organic", "knitted", "velvet"),
        (
            Leaf("Teddy Bears", "teddy bear", 22, "\u30c6\u30c7\u30a3\u30d9\u30a2"),
            Leaf("Dolls", "doll", 26, "\u4eba\u5f62"),
            Leaf("Puppets", "puppet", 15, "\u6307\u4eba\u5f62"),
        ),
    ),
)
COLOURS: Final = (
    "red",
    "blue",
    "green",
    "black",
    "white",
    "grey",
    "yellow",
    "pink",
    "brown",
    "purple",
)
FEATURES: Final = ("compact", "classic", "deluxe", "slim", "large", "travel")


class Language(NamedTuple):
    """Title pattern and words of a department's imports; `colours` are in the order of COLOURS."""

    pattern: str
    colours: tuple[str, ...]
    features: tuple[str, ...]


# Japanese, Russian, Chinese, Arabic. The words around a colour read "colour:", so that adjectives
# need not agree with their noun; the features are "compact", "premium" and "limited edition".
_JAPANESE: Final = Language(
    "{brand} {noun} {colour} {feature}",
    (
        "\u8d64",
        "\u9752",
        "\u7dd1",
        "\u9ed2",
        "\u767d",
        "\u7070\u8272",
        "\u9ec4\u8272",
        "\u30d4\u30f3\u30af",
        "\u8336\u8272",
        "\u7d2b",
    ),
    ("\u30b3\u30f3\u30d1\u30af\u30c8", "\u30d7\u30ec\u30df\u30a2\u30e0", "\u9650\u5b9a\u7248"),
)
_RUSSIAN: Final = Language(
    "{noun} {feature} {brand}, \u0446\u0432\u0435\u0442 {colour}",
    (
        "\u043a\u0440\u0430\u0441\u043d\u044b\u0439",
        "\u0441\u0438\u043d\u0438\u0439",
        "\u0437\u0435\u043b\u0451\u043d\u044b\u0439",
        "\u0447\u0451\u0440\u043d\u044b\u0439",
        "\u0431\u0435\u043b\u044b\u0439",
        "\u0441\u0435\u0440\u044b\u0439",
        "\u0436\u0451\u043b\u0442\u044b\u0439",
        "\u0440\u043e\u0437\u043e\u0432\u044b\u0439",
        "\u043a\u043e\u0440\u0438\u0447\u043d\u0435\u0432\u044b\u0439",
        "\u0444\u0438\u043e\u043b\u0435\u0442\u043e\u0432\u044b\u0439",
    ),
    (
        "\u043c\u0438\u043d\u0438",
        "\u043f\u0440\u0435\u043c\u0438\u0443\u043c",
        "\u043e\u0441\u043e\u0431\u0430\u044f \u0441\u0435\u0440\u0438\u044f",
    ),
)
_CHINESE: Final = Language(
    "{brand} {feature}{noun} {colour}",
    (
        "\u7ea2\u8272",
        "\u84dd\u8272",
        "\u7eff\u8272",
        "\u9ed1\u8272",
        "\u767d\u8272",
        "\u7070\u8272",
        "\u9ec4\u8272",
        "\u7c89\u8272",
        "\u68d5\u8272",
        "\u7d2b\u8272",
    ),
    ("\u4fbf\u643a", "\u9ad8\u7ea7", "\u9650\u91cf\u7248"),
)
_ARABIC: Final = Language(
    "{noun} {brand} {feature} - \u0627\u0644\u0644\u0648\u0646 {colour}",
    (
        "\u0623\u062d\u0645\u0631",
        "\u0623\u0632\u0631\u0642",
        "\u0623\u062e\u0636\u0631",
        "\u0623\u0633\u0648\u062f",
        "\u0623\u0628\u064a\u0636",
        "\u0631\u0645\u0627\u062f\u064a",
        "\u0623\u0635\u0641\u0631",
        "\u0648\u0631\u062f\u064a",
        "\u0628\u0646\u064a",
        "\u0628\u0646\u0641\u0633\u062c\u064a",
    ),
    (
        "\u062d\u062c\u0645 \u0635\u063a\u064a\u0631",
        "\u062c\u0648\u062f\u0629 \u0639\u0627\u0644\u064a\u0629",
        "\u0625\u0635\u062f\u0627\u0631 \u0645\u062d\u062f\u0648\u062f",
    ),
)
LANGUAGES: Final = {
    "Home": _JAPANESE,
    "Fashion": _RUSSIAN,
    "Electronics": _CHINESE,
    "Sports": _RUSSIAN,
    "Beauty": _ARABIC,
    "Toys": _JAPANESE,
}
NUM_BRANDS: Final = 8
"""Brands per department; brand 0 is the cheapest, the last one the most expensive."""
DEPARTMENTS: Final = tuple(LANGUAGES)
BRANDS: Final = {
    department: tuple(
        start + end for start in ("Nor", "Vel", "Kas", "Bri", "Tam", "Ost", "Lun", "Fae")
    )
    for department, end in zip(
        DEPARTMENTS, ("vik", "mora", "quist", "dalen", "rella", "wick"), strict=True
    )
}

LEAVES: Final = tuple(leaf for aisle in AISLES for leaf in aisle.leaves)
LEAF_AISLE: Final = np.repeat(np.arange(len(AISLES)), [len(aisle.leaves) for aisle in AISLES])
"""Aisle of each leaf; the leaves of an aisle are neighbours."""
AISLE_START: Final = np.searchsorted(LEAF_AISLE, np.arange(len(AISLES) + 1))
"""[aisles + 1] first leaf of each aisle; the last entry is the number of leaves."""
AISLE_PATHS: Final = tuple(f"{aisle.department} > {aisle.name}" for aisle in AISLES)
LEAF_PATHS: Final = tuple(
    f"{AISLE_PATHS[aisle]} > {leaf.name}" for aisle, leaf in zip(LEAF_AISLE, LEAVES, strict=True)
)
NEXT_LEAF: Final = np.concatenate(
    [np.roll(np.arange(first, last), -1) for first, last in itertools.pairwise(AISLE_START)]
)
"""Leaf that users visit after each leaf: the next one in its aisle, cyclically."""
_NEXT_AISLE: Final = np.arange(len(AISLES)).reshape(len(DEPARTMENTS), -1)
PARTNER_LEAF: Final = AISLE_START[np.roll(_NEXT_AISLE, -1, axis=1).ravel()][LEAF_AISLE]
"""Leaf that goes with each leaf: the first leaf of the next aisle of its department."""
