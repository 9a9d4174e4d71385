"""Does a model forget? Its accuracy on the first window of the updates, an old one by now.

The first update notes its test window (`<updates>/window.json`). Each later champion is judged on
the users and clicks of that window, made of the data set of today (data/past_window.py). Since
these clicks are train events now, a fall of this NDCG is forgetting, and its level is no accuracy.
Every training replays all events, so a model trained from scratch shows how high it could be.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from recdiv_core.config import Config, override
from recdiv_core.data.past_window import ensure_window
from recdiv_core.data.sale_dates import DAY_US
from recdiv_core.evaluation.evaluate import evaluate
from recdiv_core.formats.timestamps import show_time
from recdiv_core.schema import Manifest

WINDOW: Final = "window"
"""File that names the first window, without its ending."""
OLD_NDCG: Final = "old_ndcg"
"""NDCG at `eval.k` on the first window."""


PLAIN: Final[Mapping[str, object]] = {
    "eval.slices": [],
    "rerank.method": "none",
    "rerank.diversity": 0.0,
    "rerank.logit_adjustment": 0.0,
    "rerank.lift": 0.0,
    "rerank.rules": [],
    "eligible.block": "",
    "eligible.only": "",
    "eligible.where": {},
}
"""Settings of the evaluation: the model alone, without the stock and the re-ranking of today."""


def window_of(manifest: Manifest) -> dict[str, Any]:
    """Return the test window of a data set: times in microseconds, and days; empty = it has none.

    A split without a cut in time, `leave_last_out`, has no window.
    """
    if "test_from_us" not in manifest.split:
        return {}
    first = int(manifest.split["test_from_us"])
    midnight = np.datetime64(str(manifest.times["last"]), "D").astype("datetime64[us]")
    end = int(midnight.astype(np.int64)) + DAY_US
    days = {"first_day": show_time(first)[:10], "last_day": show_time(end - DAY_US)[:10]}
    return {"from_us": first, "to_us": end, **days}


def judge_window(
    config: Config, checkpoint: Path, manifest: Manifest, window: Mapping[str, Any]
) -> dict[str, float]:
    """Return OLD_NDCG of a checkpoint; empty without a window, or if nobody clicked in it.

    Args:
        config: settings of the evaluation; `data.prepared` is the data set of today.
        checkpoint: of the model.
        manifest: of the data set.
        window: see `window_of`.
    """
    if not window:
        return {}
    prepared = Path(config.data.prepared)
    split = ensure_window(prepared, manifest, window["from_us"], window["to_us"])
    if split is None:
        return {}
    found = evaluate(override(config, PLAIN), checkpoint, split=split)
    return {OLD_NDCG: found["metrics"][f"ndcg_at_{config.eval.k}"]}
