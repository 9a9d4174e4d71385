from dataclasses import replace
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdiv_core.config import Config, override
from recdiv_core.data.catalogue import load_catalogue
from recdiv_core.data.rule_labels import labels_of_items, labels_of_rule
from recdiv_core.data.sale_dates import TIMES
from recdiv_core.errors import UserError
from recdiv_core.slate_rules import parse_rule
from recdiv_core.slates.checks import check_rerank
from recdiv_core.slates.dataset import load_dataset
from recdiv_core.slates.policy import slate_policy
from tests.worlds import write_dataset


@pytest.fixture
def prepared(tmp_path, manifest):
    """Return a data set of six items: two labels on items 0 and 4, brands, sizes, prices."""
    write_dataset(tmp_path, manifest, num_items=6, num_queries=0)
    table = pq.read_table(tmp_path / "catalogue.parquet")
    columns = {
        "brand": ["Acme", "Zen", None, "Acme", "", "Bolt 5"],
        "size": [1.0, 2.0, 2.0, None, 1.0, 3.0],
        "price": [1.0, 2.0, 3.0, 4.0, 5.0, None],
    }
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    pq.write_table(table, tmp_path / "catalogue.parquet")
    return tmp_path


@pytest.fixture
def catalogue(prepared):
    return load_catalogue(prepared)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("at most 1 of category", [[0, 1], [1, -1], [2, -1], [0, -1], [1, 2], [2, -1]]),
        ("at most 1 of category=B", [[0], [0], [-1], [-1], [0], [-1]]),
        ("at least 2 distinct brand", [[0], [1], [-1], [0], [-1], [2]]),
        ('at most 1 of brand="Bolt 5" in 3', [[-1], [-1], [-1], [-1], [-1], [0]]),
        ("at least 1 of size=2", [[-1], [0], [0], [-1], [-1], [-1]]),
        ("at most 1 of price", [[0], [1], [2], [3], [4], [-1]]),
        ("at least 1 of price=band 1", [[0], [-1], [-1], [-1], [-1], [-1]]),
        ("at least 1 of is_cold=true", [[0], [0], [-1], [-1], [-1], [-1]]),
        ("draw 1 of is_cold=true for 20 % of slates", [[0], [0], [-1], [-1], [-1], [-1]]),
        ("include i4", [[-1], [-1], [-1], [-1], [0], [-1]]),
        ("exclude i0", [[0], [-1], [-1], [-1], [-1], [-1]]),
    ],
)
def test_labels_are_those_of_the_catalogue(catalogue, text, labels):
    found = labels_of_rule(parse_rule(text), catalogue).to_pylist()
    assert found == [[label for label in own if label >= 0] for own in labels]


def test_an_item_is_new_in_its_first_days_on_sale(catalogue):
    days = ["2024-01-01", "2024-01-24", "2024-01-25", "2024-01-31", "2024-02-09", None]
    times = [None if day is None else datetime.fromisoformat(f"{day}T00:00:00Z") for day in days]
    table = catalogue.table.append_column("available_from", pa.array(times, TIMES))
    rule = parse_rule("draw 1 of is_new=true")
    own = replace(catalogue, table=table, last_day="2024-01-31")
    assert labels_of_rule(rule, own).to_pylist() == [[], [], [0], [0], [0], []]
    for other in (replace(own, last_day=""), replace(own, table=catalogue.table)):
        with pytest.raises(UserError, match="no attribute 'is_new'"):
            labels_of_rule(rule, other)
    mine = table.append_column("is_new", pa.array(["true", *[""] * 5]))
    assert labels_of_rule(rule, replace(own, table=mine)).to_pylist() == [[0], *[[]] * 5]


def test_a_day_without_a_cold_item_is_no_mistake(catalogue):
    column = catalogue.table.column_names.index("is_cold")
    warm = catalogue.table.set_column(column, "is_cold", pa.array([False] * 6))
    for text in ("draw 1 of is_cold=true", "at least 1 of is_cold=true"):
        found = labels_of_rule(parse_rule(text), replace(catalogue, table=warm))
        assert found.to_pylist() == [[]] * 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "at most 2 of brnad",
            "'at most 2 of brnad': the catalogue has no attribute 'brnad'; did you mean 'brand'; "
            "it has category, is_cold, brand, size, price",
        ),
        ("at most 2 of title", "the catalogue has no attribute 'title'; it has category, "),
        ("at least 1 of brand=Acne", "no item has brand=Acne; did you mean 'Acme'"),
        ("at least 1 of category=Soap", "no item has category=Soap; there are 'A', 'B', 'C'"),
        ("at most 1 of price=3", "no item has price=3; there are 'band 1', .* 'band 5'"),
        ("include i44", "no item_id 'i44'; did you mean 'i4'"),
        ("exclude x", "'exclude x': the catalogue has no item_id 'x'; there are 'i0', .* 'i4' ..."),
    ],
)
def test_a_name_that_the_catalogue_lacks_is_refused_by_the_driver(prepared, text, message):
    config = override(Config(), {"rerank.rules": ["at most 3 of brand", text]})
    with pytest.raises(ValueError, match=rf"^rerank\.rules: .*{message}"):
        check_rerank(config, prepared)


def test_a_policy_has_the_rules_in_the_order_of_the_config(prepared):
    texts = ["at most 2 of brand in 3", "include i1", "at least 2 distinct category"]
    policy = slate_policy(override(Config(), {"rerank.rules": texts}), load_dataset(prepared))
    rules = policy.options.rules
    assert [(rule.kind, rule.count, rule.window) for rule in rules] == [
        ("at most", 2, 3),
        ("include", 1, 0),
        ("distinct", 2, 0),
    ]
    assert [rule.labels.most for rule in rules] == [1, 1, 2]


def test_rules_with_nothing_to_choose_from_are_named(prepared, caplog):
    config = override(
        Config(), {"rerank.rules": ["at most 1 of brand"], "rerank.num_candidates": 10}
    )
    check_rerank(config, prepared)
    assert [record.getMessage() for record in caplog.records] == [
        "rerank.num_candidates=10 is eval.k: rerank.rules have nothing to choose from"
    ]


def test_without_rules_the_catalogue_is_not_read(tmp_path):
    check_rerank(Config(), tmp_path / "nowhere")


def test_rules_of_items_are_one_mask_a_kind(prepared):
    texts = ["exclude i0", "include i3", "exclude i4", "include i1", "include i3"]
    policy = slate_policy(override(Config(), {"rerank.rules": texts}), load_dataset(prepared))
    exclude, include = policy.options.rules
    assert (exclude.kind, include.kind, include.count) == ("exclude", "include", 2)
    catalogue = load_catalogue(prepared)
    for rule, listed in (
        (exclude, [[0], [], [], [], [0], []]),
        (include, [[], [0], [], [0], [], []]),
    ):
        rules = [parse_rule(text) for text in texts if text.startswith(rule.kind)]
        assert labels_of_items(rules, catalogue).to_pylist() == listed
    assert [rule.kind for rule in policy.reranker_options.rules] == ["include"]


def test_unknown_items_of_a_block_list_are_counted(prepared):
    config = override(Config(), {"rerank.rules": ["exclude i1", "exclude x", "exclude y"]})
    with pytest.raises(UserError, match=r"'exclude x': .* no item_id 'x' \(and 1 more\)"):
        check_rerank(config, prepared)
