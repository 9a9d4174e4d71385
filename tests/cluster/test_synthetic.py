"""The built-in shop, written by Ray Data."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdiv_core.shop import generate as synthetic
from recdiv_core.shop.goods import catalogue_table, stock

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def test_shards_hold_the_rows_of_one_block_however_many_tasks_wrote_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    num_users, num_items = synthetic.size(60_000, seed=4)
    goods = stock(num_items, seed=4)
    shoppers = synthetic.draw_shoppers(np.arange(num_users), seed=4)
    monkeypatch.setattr(synthetic, "USERS_PER_BLOCK", 300)

    clicks, items = synthetic.generate(tmp_path, num_events=60_000, seed=4)

    log = pq.read_table(clicks)
    assert len(list(clicks.glob("*.parquet"))) > 4
    assert log.num_rows == pytest.approx(60_000, rel=0.1)
    assert log.equals(synthetic.click_log(shoppers, goods))
    assert pq.read_table(items).equals(catalogue_table(goods, seed=4))
    assert pq.read_table(tmp_path / "truth").equals(synthetic.planted_truth(shoppers))


def test_smaller_shop_replaces_a_larger_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(synthetic, "USERS_PER_BLOCK", 50)
    synthetic.generate(tmp_path, num_events=5_000, seed=0)

    clicks, _ = synthetic.generate(tmp_path, num_events=1_000, seed=0)

    assert pq.read_table(clicks).num_rows == pytest.approx(1_000, rel=0.1)
    assert (
        len(pa.compute.unique(pq.read_table(tmp_path / "truth")["user_id"]))
        == (synthetic.size(1_000, seed=0)[0])
    )
