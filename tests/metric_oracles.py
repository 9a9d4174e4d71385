"""Slow reference implementations of all metrics (scorecard.py): one user at a time, plain Python.

oracles.py has the reference implementations of the metrics of every epoch.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from tests.oracles import category_shares, cosine, metrics_of_slates, mix_of_slate
from tests.worlds import World


def auc(scores: Sequence[float | None], targets: Sequence[int]) -> float:
    """Return the share of pairs in the right order; a score of None = the item cannot be shown."""
    others = [s for i, s in enumerate(scores) if s is not None and i not in targets]
    wins = [
        1.0 if scores[target] > other else 0.5 if scores[target] == other else 0.0
        for target in targets
        for other in others
    ]
    return sum(wins) / len(wins) if wins else 0.5


def distances(slate: Sequence[int], world: World) -> tuple[list[float], list[float]]:
    """Return 1 - cosine and 1 - Jaccard of categories, of each pair of a slate."""
    by_vector, by_category = [], []
    for one, other in itertools.combinations(slate, 2):
        by_vector.append(1 - cosine(world.embeddings[one], world.embeddings[other]))
        mine, theirs = {*world.categories[one]}, {*world.categories[other]}
        by_category.append(1 - len(mine & theirs) / max(1, len(mine | theirs)))
    return by_vector, by_category


def shares_of_labels(items: Sequence[int], world: World) -> dict[int, float]:
    """Return the share of each category, of items that have any."""
    labelled = [item for item in items if world.categories[item]]
    if not labelled:
        return {}
    shares = category_shares(labelled, world.categories, world.num_categories)
    return {category: share for category, share in enumerate(shares) if share}


def entropy(shares: Sequence[float]) -> float:
    return -sum(share * math.log(share) for share in shares if share > 0)


def vendi(slate: Sequence[int], world: World) -> float:
    if not slate:
        return 0.0
    kernel = [
        [1.0 if a == b else cosine(world.embeddings[a], world.embeddings[b]) for b in slate]
        for a in slate
    ]
    return math.exp(entropy((np.linalg.eigvalsh(kernel) / len(slate)).tolist()))


def gain(item: int, before: Counter[int], world: World) -> float:
    return sum(0.5 ** before[category] for category in world.categories[item])


def gains(order: Sequence[int | None], world: World) -> list[float]:
    before: Counter[int] = Counter()
    values = []
    for item in order:
        values.append(0.0 if item is None else gain(item, before, world))
        before.update([] if item is None else world.categories[item])
    return values


def greedy_order(targets: Sequence[int], k: int, world: World) -> list[int]:
    left, order, before = sorted(targets), [], Counter()
    while left and len(order) < k:
        best = max(left, key=lambda item: gain(item, before, world))
        left.remove(best)
        order.append(best)
        before.update(world.categories[best])
    return order


def intent(slate: Sequence[int], targets: Sequence[int], k: int, world: World) -> dict[str, float]:
    hits = [item if item in targets else None for item in slate]
    shown, ideal = gains(hits, world), gains(greedy_order(targets, k, world), world)
    best = sum(g / math.log2(rank + 1) for rank, g in enumerate(ideal, start=1))
    got = sum(g / math.log2(rank + 1) for rank, g in enumerate(shown, start=1))
    needs = {category for item in targets for category in world.categories[item]}
    err = sum(g / rank for rank, g in enumerate(shown, start=1)) / max(1, len(needs))
    return {
        "alpha_ndcg": got / best if best else 0.0,
        "err_ia": err / sum(0.5 ** (rank - 1) / rank for rank in range(1, k + 1)),
    }


def calibration(slate: Sequence[int], history: Sequence[int], world: World) -> dict[str, float]:
    wanted, shown = shares_of_labels(history, world), shares_of_labels(slate, world)
    if not wanted:
        return {"calibration_kl": 0.0, "calibration_js": 0.0}
    kl = sum(h * math.log(h / (0.99 * shown.get(c, 0) + 0.01 * h)) for c, h in wanted.items())
    middle = {c: (wanted.get(c, 0) + shown.get(c, 0)) / 2 for c in wanted.keys() | shown.keys()}
    js = (
        entropy([*middle.values()]) - (entropy([*wanted.values()]) + entropy([*shown.values()])) / 2
    )
    return {"calibration_kl": kl, "calibration_js": js / math.log(2) if shown else 1.0}


def tail_items(popularity: Sequence[int]) -> set[int]:
    """Return the tail: all items except the most popular ones, which have 80 % of the events."""
    left, tail = 0.8 * sum(popularity), set()
    for item in sorted(range(len(popularity)), key=lambda item: -popularity[item]):
        if left <= 1e-9 or not popularity[item]:
            tail.add(item)
        left -= popularity[item]
    return tail


def of_popularity(
    slate: Sequence[int], targets: Sequence[int], k: int, world: World
) -> dict[str, float]:
    num_items, popularity = len(world.popularity), world.popularity
    ranks = {count: rank for rank, count in enumerate(sorted({*popularity}, reverse=True), start=1)}
    most_popular = sorted(range(num_items), key=lambda item: -popularity[item])[:k]
    serendipity = epc = 0.0
    for rank, item in enumerate(slate, start=1):
        if item in targets:
            of_any = (num_items + 1 - ranks[popularity[item]]) / num_items
            of_user = (num_items + 1 - rank) / num_items
            serendipity += max(0.0, of_user - (of_any if popularity[item] else 0.0)) / k
            met = min(max(popularity[item], 1), world.num_train_users) / world.num_train_users
            epc += (1 - met) / math.log2(rank + 1)
    return {
        "popularity": float(np.mean([popularity[item] for item in slate])) if slate else 0.0,
        "tail_share": len({*slate} & tail_items(popularity)) / len(slate) if slate else 0.0,
        "epc": epc / sum(1 / math.log2(rank + 1) for rank in range(1, k + 1)),
        "serendipity": serendipity,
        "unexpectedness": len({*slate} - {*most_popular}) / k,
    }


def of_user(
    slate: Sequence[int],
    targets: Sequence[int],
    history: Sequence[int],
    scores: Sequence[float | None],
    *,
    k: int,
    world: World,
) -> dict[str, float]:
    by_vector, by_category = distances(slate, world)
    shares = [*shares_of_labels(slate, world).values()]
    figures = {
        "recall_capped": len({*slate} & {*targets}) / min(k, len(targets)),
        "auc": auc(scores, targets),
        "ilmd": min(by_vector, default=0.0),
        "category_ild": sum(by_category) / len(by_category) if by_category else 0.0,
        "effective_categories": math.exp(entropy(shares)) if shares else 0.0,
        "vendi": vendi(slate, world),
        "user_coverage": float(len(slate) > 0),
        "full_slates": float(len(slate) == k),
    }
    for name, values in world.attributes.items():
        possible = max(1, min(k, max(values) + 1))
        figures[f"{name}_coverage"] = len({values[item] for item in slate} - {-1}) / possible
    figures |= of_popularity(slate, targets, k, world) | calibration(slate, history, world)
    return figures | intent(slate, targets, k, world)


def of_every_epoch(world: World, *, k: int) -> dict[str, float]:
    """Return the metrics of every epoch."""
    return metrics_of_slates(
        world.slates,
        world.targets,
        embeddings=world.embeddings,
        categories=world.categories,
        popularity=world.popularity,
        num_train_users=world.num_train_users,
        num_categories=world.num_categories,
        k=k,
        histories=world.histories,
    )


def scorecard(world: World, *, k: int) -> dict[str, float]:
    """Return all metrics; the slow twin of `finish_scorecard`."""
    users = [
        (slate[:k], targets, history, scores)
        for slate, targets, history, scores in zip(
            world.slates, world.targets, world.histories, world.scores, strict=True
        )
        if targets
    ]
    values = [of_user(*user, k=k, world=world) for user in users]
    means = {name: sum(value[name] for value in values) / len(values) for name in values[0]}
    shown = Counter(item for slate, *_ in users for item in slate)
    shares, num_items = [n / shown.total() for n in shown.values()], len(world.popularity)
    pairs = [len({*one[0]} & {*other[0]}) / k for one, other in itertools.combinations(users, 2)]
    means |= {
        "distributional_coverage": math.exp(entropy(shares)) / num_items,
        "exposure_entropy": entropy(shares) / math.log(num_items),
        "personalisation": 1 - sum(pairs) / len(pairs),
    }
    mixes = [mix_of_slate(slate, world.categories) for slate, *_ in users]
    mixes_alike = [sum(p * two.get(c, 0) for c, p in one.items()) for one in mixes for two in mixes]
    means["total_diversity"] = 1 - sum(mixes_alike) / len(mixes_alike)
    return of_every_epoch(world, k=k) | {f"{name}_at_{k}": value for name, value in means.items()}


def item_fairness(
    world: World, groups: Mapping[str, set[int]], *, k: int, min_size: int
) -> dict[str, float]:
    """Compare groups of items; rates by loops over all users."""
    users = [(s[:k], t) for s, t in zip(world.slates, world.targets, strict=True) if t]
    num_shown = sum(len(slate) for slate, _ in users)
    exposures, recalls = [], []
    for items in groups.values():
        if items:
            shown = sum(len({*slate} & items) for slate, _ in users)
            exposures.append(shown / num_shown * len(world.popularity) / len(items))
        wanted = sum(len({*targets} & items) for _, targets in users)
        if wanted >= min_size:
            recalls.append(sum(len({*s} & {*t} & items) for s, t in users) / wanted)
    return {
        "equal_coverage_gap": max(exposures) - min(exposures),
        "pop_rsp": float(np.std(exposures) / np.mean(exposures)),
        "equal_opportunity_gap": max(recalls) - min(recalls),
        "pop_reo": float(np.std(recalls) / np.mean(recalls)) if sum(recalls) else 0.0,
    }
