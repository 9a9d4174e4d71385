"""Published data sets through the whole of prepare, and the config that init writes for one."""

import pytest

from recdiv_core.adapters import look, shop_config
from recdiv_core.config import Config, override
from recdiv_core.data.catalogue import load_catalogue
from recdiv_core.data.clicklog import prepare
from recdiv_core.schema import read_manifest
from recdiv_core.settings import load
from tests.published import PUBLISHED

pytestmark = pytest.mark.ray

SETTINGS = {"split.protocol": "leave_last_out", "data.num_shards": 2, "model.text.max_tokens": 16}


@pytest.mark.parametrize("name", ["movielens-1m", "otto", "instacart"])
def test_a_published_data_set_is_prepared_with_its_layout_alone(ray_cluster, tmp_path, name):
    published = next(p for p in PUBLISHED if p.layout == name)
    place = tmp_path / "data"
    place.mkdir()
    published.write(place)
    given = {"data.layout": name, "data.clicks": str(place), "data.out": str(tmp_path / "out")}
    done = prepare(override(Config(), SETTINGS | given))
    assert done["num_users"] == published.num_users
    assert done["num_items"] == published.num_items
    assert done["num_events"] == sum(published.kinds.values())
    assert done["quarantined"] == 0
    catalogue = load_catalogue(tmp_path / "out")
    titles = dict(zip(catalogue.item_ids.to_pylist(), catalogue.titles.to_pylist(), strict=True))
    assert {item: titles[item] for item in published.titles} == published.titles
    names = {str(row["path"]).rsplit("/", 1)[1] for row in read_manifest(tmp_path / "out").sources}
    assert ("orders.csv" in names) == (name == "instacart")


def test_what_init_writes_is_prepared(ray_cluster, tmp_path):
    place = tmp_path / "data"
    place.mkdir()
    next(p for p in PUBLISHED if p.layout == "movielens-20m").write(place)
    shop_config.write(look.look_at([str(place)]), tmp_path / "shop.yaml")
    config = override(load(tmp_path / "shop.yaml"), SETTINGS | {"data.out": str(tmp_path / "out")})
    assert prepare(config)["num_events"] == 20
