"""Slow reference implementations of the vectorised code: loops over users, plain Python."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def cosine(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    first, second = first.astype(np.float64), second.astype(np.float64)
    lengths = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / lengths if lengths else 0.0


def accuracy_of_slate(slate: Sequence[int], targets: Sequence[int], k: int) -> dict[str, float]:
    ranks = [rank for rank, item in enumerate(slate[:k], start=1) if item in targets]
    best = range(1, min(k, len(targets)) + 1)
    precision, recall = len(ranks) / k, len(ranks) / len(targets)
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if ranks else 0.0,
        "hit": float(bool(ranks)),
        "mrr": 1 / ranks[0] if ranks else 0.0,
        "map": sum(count / rank for count, rank in enumerate(ranks, start=1)) / len(best),
        "ndcg": sum(1 / math.log2(rank + 1) for rank in ranks)
        / sum(1 / math.log2(rank + 1) for rank in best),
    }


def ild_of_slate(slate: Sequence[int], embeddings: NDArray[np.floating]) -> float:
    distances = [
        1 - cosine(embeddings[first], embeddings[second])
        for first, second in itertools.combinations(slate, 2)
    ]
    return sum(distances) / len(distances) if distances else 0.0


def categories_of_slate(
    slate: Sequence[int], categories: Sequence[Sequence[int]], num_categories: int, k: int
) -> dict[str, float]:
    weights: dict[int, float] = defaultdict(float)
    for item in slate:
        for category in categories[item]:
            weights[category] += 1 / len(categories[item])
    total = sum(weights.values())
    entropy = -sum(w / total * math.log(w / total) for w in weights.values())
    possible = min(k, num_categories)
    return {
        "category_coverage": min(1.0, len(weights) / possible),
        "diversity_index": min(1.0, entropy / math.log(possible)) if possible > 1 else 0.0,
        "homogeneity": max(0.0, math.log(len(slate) / max(1, len(weights)))) if slate else 0.0,
    }


def novelty_of_slate(
    slate: Sequence[int], popularity: Sequence[int], num_train_users: int
) -> float:
    bits = [
        -math.log2(min(max(popularity[item], 1), num_train_users) / num_train_users)
        for item in slate
    ]
    return sum(bits) / len(bits) if bits else 0.0


def log_det_by_dimension(q: Sequence[float], vectors: NDArray[np.floating]) -> float:
    """Return log det(I_d + sum_i q_i v_i v_i^T), item by item."""
    matrix = np.eye(vectors.shape[1])
    for weight, vector in zip(q, vectors, strict=True):
        matrix = matrix + weight * np.outer(vector, vector)
    return float(np.linalg.slogdet(matrix)[1])


def category_shares(
    items: Sequence[int], categories: Sequence[Sequence[int]], num_categories: int
) -> list[float]:
    """Return the share of each category in items; the categories of one item share it equally."""
    shares = [0.0] * num_categories
    for item in items:
        for category in categories[item]:
            shares[category] += 1 / len(categories[item]) / len(items)
    return shares


def divergence_from_history(
    slate: Sequence[int], categories: Sequence[Sequence[int]], history: Sequence[float]
) -> float:
    """Return KL(h || 0.99 P + 0.01 h) / log 100 of a hard slate; h the share of each category."""
    shares = category_shares(slate, categories, len(history))
    return sum(
        h * math.log(h / (0.99 * share + 0.01 * h))
        for h, share in zip(history, shares, strict=True)
        if h
    ) / math.log(100)


def evenness_of_values(values: Sequence[int], num_values: int, k: int) -> float:
    """Return the entropy of the known values of a hard slate over its limit."""
    counts = Counter(value for value in values if value >= 0)
    total = sum(counts.values())
    entropy = -sum(n / total * math.log(n / total) for n in counts.values())
    return entropy / math.log(min(k, num_values))


def items_shared(slates: Sequence[Sequence[int]]) -> float:
    """Return how many items the slates of two users have in common, the mean over all pairs."""
    shared = [len({*one} & {*other}) for one, other in itertools.combinations(slates, 2)]
    return sum(shared) / len(shared)


def divergence_from_popularity_power(
    slates: Sequence[Sequence[int]], popularity: Sequence[float], power: float
) -> float:
    """Return KL(p || pi^power / Z), where p is each item's share of all slate positions."""
    places = Counter(itertools.chain.from_iterable(slates))
    total, norm = sum(places.values()), sum(share**power for share in popularity)
    return sum(
        n / total * math.log(n / total / (popularity[item] ** power / norm))
        for item, n in places.items()
    )


def gini(exposure: Sequence[float]) -> float:
    """Return half the mean absolute difference of all pairs, relative to the mean."""
    if not sum(exposure):
        return 0.0
    differences = [abs(a - b) for a in exposure for b in exposure]
    return sum(differences) / len(differences) / 2 / (sum(exposure) / len(exposure))


def attention_of_items(slates: Sequence[Sequence[int]]) -> dict[int, float]:
    """Return the sum of 1 / log2(rank + 1) of each item."""
    attention: dict[int, float] = defaultdict(float)
    for slate in slates:
        for rank, item in enumerate(slate, start=1):
            attention[item] += 1 / math.log2(rank + 1)
    return attention


def effective_number(weights: Sequence[float]) -> float:
    total = sum(weights)
    return math.exp(-sum(w / total * math.log(w / total) for w in weights)) if total else 0.0


def mix_of_slate(slate: Sequence[int], categories: Sequence[Sequence[int]]) -> dict[int, float]:
    """Return the share of each category; a slate without any is all of category -1."""
    weights: dict[int, float] = defaultdict(float)
    for item in slate:
        for category in categories[item]:
            weights[category] += 1 / len(categories[item])
    total = sum(weights.values())
    return {category: w / total for category, w in weights.items()} or {-1: 1.0}


def between_users(slates: Sequence[Sequence[int]], categories: Sequence[Sequence[int]]) -> float:
    """Return half the mean squared distance of the category mixes of two users, over all pairs."""
    mixes = [mix_of_slate(slate, categories) for slate in slates]
    squares = [
        sum((one.get(c, 0) - two.get(c, 0)) ** 2 for c in one.keys() | two.keys())
        for one in mixes
        for two in mixes
    ]
    return sum(squares) / len(squares) / 2


def narrowed_choice(
    slate: Sequence[int], history: Sequence[int], categories: Sequence[Sequence[int]]
) -> bool | None:
    """Return whether a slate has fewer categories than as many of the latest distinct items."""
    latest = list(dict.fromkeys(reversed(history)))
    size = min(len(slate), len(latest))
    own = {category for item in latest[:size] for category in categories[item]}
    shown = {category for item in slate[:size] for category in categories[item]}
    return len(shown) < len(own) if own else None


def metrics_of_slates(
    slates: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    *,
    embeddings: NDArray[np.floating],
    categories: Sequence[Sequence[int]],
    popularity: Sequence[int],
    num_train_users: int,
    num_categories: int,
    k: int,
    histories: Sequence[Sequence[int]] = (),
) -> dict[str, float]:
    """Return all metrics; the slow twin of `finish(tally_slates(...))`."""
    judged = [(slate[:k], wanted) for slate, wanted in zip(slates, targets, strict=True) if wanted]
    users = [
        accuracy_of_slate(slate, wanted, k)
        | categories_of_slate(slate, categories, num_categories, k)
        | {
            "ild": ild_of_slate(slate, embeddings),
            "novelty": novelty_of_slate(slate, popularity, num_train_users),
            "gini_simpson": 1 - sum(share**2 for share in mix_of_slate(slate, categories).values()),
        }
        for slate, wanted in judged
    ]
    exposure = Counter(item for slate, _ in judged for item in slate)
    means = {name: sum(user[name] for user in users) / len(users) for name in users[0]}
    means["coverage"] = len(exposure) / len(embeddings)
    means["gini"] = gini([exposure[item] for item in range(len(embeddings))])
    attention = attention_of_items([slate for slate, _ in judged])
    means["attention_gini"] = gini([attention.get(item, 0.0) for item in range(len(embeddings))])
    means["attention_coverage"] = effective_number([*attention.values()]) / len(embeddings)
    means["between_diversity"] = between_users([slate for slate, _ in judged], categories)
    compared = [
        is_narrowed
        for slate, wanted, history in zip(slates, targets, histories, strict=False)
        if wanted and (is_narrowed := narrowed_choice(slate[:k], history, categories)) is not None
    ]
    if compared:
        means["narrowed"] = sum(compared) / len(compared)
    return {f"{name}_at_{k}": value for name, value in means.items()}


def scaled_scores(scores: Sequence[float]) -> list[float | None]:
    """Scale the finite scores to [0, 1] in float32, as the re-rankers do; None for the others."""
    finite = [np.float32(score) for score in scores if math.isfinite(score)]
    if not finite:
        return [None] * len(scores)
    low, high = min(finite), max(finite)
    return [
        None
        if not math.isfinite(score)
        else float((np.float32(score) - low) / (high - low))
        if high > low
        else 0.0
        for score in scores
    ]


def mmr_slate(
    scores: Sequence[float], embeddings: NDArray[np.floating], k: int, diversity: float
) -> list[int]:
    """Choose one user's slate step by step, recomputing every pair of cosines."""
    relevance = scaled_scores(scores)
    chosen: list[int] = []
    while len(chosen) < k:
        best, best_value = -1, -math.inf
        for index, relevant in enumerate(relevance):
            if relevant is None or index in chosen:
                continue
            value = relevant
            if chosen:
                highest = max(cosine(embeddings[index], embeddings[other]) for other in chosen)
                value = (1 - diversity) * relevant - diversity * highest
            if value > best_value:
                best, best_value = index, value
        chosen.append(best)
        if best < 0:
            return (chosen + [-1] * k)[:k]
    return chosen


def standard_scores(scores: Sequence[float]) -> list[float | None]:
    """Scale the finite scores to mean 0 and standard deviation 1; None for the others."""
    finite = [score for score in scores if math.isfinite(score)]
    deviation = float(np.std(finite)) if finite else 0.0
    return [
        None if not math.isfinite(score) else (score - float(np.mean(finite))) / (deviation or 1.0)
        for score in scores
    ]


def greedy_regret(
    slate: Sequence[int],
    relevance: Sequence[float | None],
    value: Callable[[int, list[int]], float],
) -> float:
    """Return the largest shortfall of a choice against the best choice, over slate positions.

    Slates that differ only by ties and rounding have almost no shortfall.
    """
    chosen: list[int] = []
    worst = 0.0
    for choice in slate:
        if choice < 0:
            break
        rest = [i for i, r in enumerate(relevance) if r is not None and i not in chosen]
        best = max(value(i, chosen) for i in rest)
        worst = max(worst, best - value(choice, chosen))
        chosen.append(choice)
    return worst


def log_volume(places: Sequence[int], embeddings: NDArray[np.floating]) -> float:
    """Return log det of the cosines; a zero vector is similar only to itself."""
    kernel = [
        [1.0 if i == j else cosine(embeddings[i], embeddings[j]) for j in places] for i in places
    ]
    return float(np.linalg.slogdet(np.array(kernel))[1]) if places else 0.0


def distance_to_span(vector: NDArray[np.floating], others: NDArray[np.floating]) -> float:
    """Return the residual of a vector after a least-squares fit."""
    weights = np.linalg.lstsq(others.T, vector, rcond=None)[0]
    return float(np.linalg.norm(vector - others.T @ weights))


def wishes_left(
    item: int,
    chosen: Sequence[int],
    categories: Sequence[Sequence[int]],
    history: Sequence[float],
    alpha: float,
) -> float:
    """Return the novelty of xQuAD, category by category."""
    total = 0.0
    for category, wish in enumerate(history):
        if category in categories[item]:
            left = wish / len(categories[item])
            for other in chosen:
                if category in categories[other]:
                    left *= 1 - alpha / len(categories[other])
            total += left
    return total


def values_left(
    item: int,
    chosen: Sequence[int],
    values: Mapping[str, Sequence[Sequence[int]]],
    weights: Mapping[str, float],
    alpha: float,
) -> float:
    """Return the gain of alpha-nDCG, the mean over attributes by weight."""
    total = 0.0
    for name, weight in weights.items():
        own = values[name][item]
        for value in own:
            shown = sum(value in values[name][other] for other in chosen)
            total += weight / sum(weights.values()) / len(own) * (1 - alpha) ** shown
    return total


def serve_one_after_another(
    scores: Sequence[Sequence[float]],
    items: Sequence[Sequence[int]],
    k: int,
    free: Sequence[int],
    order: Sequence[int],
) -> list[list[int]]:
    """Match users with items of limited capacity; return the candidate indexes of each user.

    Users apply to items in the given order until k items keep them. A rejected user applies again.
    """
    worth = [standard_scores(own) for own in scores]
    kept: dict[int, list[tuple[float, int, int]]] = defaultdict(list)
    held: list[set[int]] = [set() for _ in scores]
    asked = [0] * len(scores)
    waiting = list(order)
    while waiting:
        user = waiting.pop(0)
        while len(held[user]) < k and asked[user] < len(items[user]):
            place = asked[user]
            asked[user] += 1
            mine = worth[user][place]
            if mine is None:
                continue
            item = items[user][place]
            kept[item].append((-mine, user, place))
            held[user].add(place)
            if len(kept[item]) > free[item]:
                loser = max(kept[item])
                kept[item].remove(loser)
                held[loser[1]].remove(loser[2])
                waiting.append(loser[1])
    return [sorted(places) for places in held]


def dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    """Return whether `first` is nowhere worse and somewhere better; higher is better."""
    pairs = list(zip(first, second, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def hypervolume_on_grid(points: Sequence[Sequence[int]], size: int) -> int:
    """Count the unit cubes of a grid from 0 to `size` that integer points dominate."""
    dimensions = len(points[0]) if points else 1
    return sum(
        any(all(p > c for p, c in zip(point, cube, strict=True)) for point in points)
        for cube in itertools.product(range(size), repeat=dimensions)
    )


def predictions_of_users(
    users: Sequence[Sequence[int]],
    queries: Sequence[int],
    weights: Sequence[float],
    max_history: int,
) -> list[tuple[tuple[int, ...], int, float, int]]:
    """Return (earlier items, item, weight, query) of each event with a weight above 0.

    A long history is cut from its end into windows. The first event of a window is predicted from
    the whole window before it. Any other event is predicted from the earlier ones of its window.
    """
    predicted: list[tuple[tuple[int, ...], int, float, int]] = []
    flat = 0
    for user in users:
        seen: list[int] = []
        for index, item in enumerate(user):
            starts_window = (len(user) - index) % max_history == 0
            if weights[flat]:
                predicted.append((tuple(seen), item, weights[flat], queries[flat]))
            seen = [item] if starts_window else [*seen, item]
            flat += 1
    return sorted(predicted)


def item_knn_scores(
    histories: Sequence[Sequence[int]],
    user: Sequence[int],
    num_items: int,
    num_neighbours: int,
    shrinkage: float,
    half_life: float = 0.0,
) -> list[float]:
    """Sum the similarities to the neighbours of each distinct item of the user."""
    weights = [weights_of_latest(items, half_life) for items in histories]
    norms = [math.sqrt(sum(own.get(i, 0.0) ** 2 for own in weights)) for i in range(num_items)]
    scores = [0.0] * num_items
    for item, weight in weights_of_latest(user, half_life).items():
        alike = []
        for other in range(num_items):
            both = sum(own.get(item, 0.0) * own.get(other, 0.0) for own in weights)
            if other != item and both:
                alike.append((both / (norms[item] * norms[other] + shrinkage), other))
        for similarity, other in sorted(alike, key=lambda pair: (-pair[0], pair[1]))[
            :num_neighbours
        ]:
            scores[other] += weight * similarity
    return scores


def weights_of_latest(items: Sequence[int], half_life: float) -> dict[int, float]:
    """Weigh each distinct item by the number of events after its latest event."""
    return {
        item: 2 ** (-(len(items) - 1 - place) / half_life) if half_life else 1.0
        for place, item in enumerate(items)
    }


def ease_scores(
    histories: Sequence[Sequence[int]],
    user: Sequence[int],
    num_items: int,
    ridge: float,
    half_life: float = 0.0,
) -> NDArray[np.float64]:
    """Score with the closed form and an explicit inverse."""
    bought = np.zeros((len(histories), num_items))
    for row, items in enumerate(histories):
        for item, weight in weights_of_latest(items, half_life).items():
            bought[row, item] = weight
    inverse = np.linalg.inv(bought.T @ bought + ridge * np.eye(num_items))
    weights = np.eye(num_items) - inverse / np.diag(inverse)
    own = np.zeros(num_items)
    for item, weight in weights_of_latest(user, half_life).items():
        own[item] = weight
    return own @ weights


def rp3beta_scores(
    histories: Sequence[Sequence[int]],
    user: Sequence[int],
    num_items: int,
    alpha: float,
    beta: float,
    half_life: float,
) -> NDArray[np.float64]:
    """Walk from each distinct item of the user to its buyers and to their items."""
    weights = [weights_of_latest(items, half_life) for items in histories]
    sums = [sum(own.get(item, 0.0) for own in weights) for item in range(num_items)]
    scores = np.zeros(num_items)
    for item, weight in weights_of_latest(user, half_life).items():
        for own in weights:
            for other in own:
                if item in own and other != item:
                    walk = (own[item] / sums[item] * own[other] / sum(own.values())) ** alpha
                    scores[other] += weight * walk / sums[other] ** beta
    return scores


def falling_weights(items: Sequence[int], recency: float) -> list[float]:
    """Weigh each event by age ** -recency, with sum 1."""
    raw = [(len(items) - place) ** -recency for place in range(len(items))]
    return [weight / sum(raw) for weight in raw]


def bm25_scores(
    texts: Sequence[Sequence[str]], query: Sequence[str], *, k1: float, b: float
) -> list[float]:
    """Return the BM25 score of each text, in the form of Lucene."""
    mean_length = sum(map(len, texts)) / len(texts)
    found = []
    for text in texts:
        total = 0.0
        for word in query:
            df = sum(word in other for other in texts)
            idf = math.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
            tf = text.count(word)
            total += idf * tf / (tf + k1 * (1 - b + b * len(text) / mean_length)) if tf else 0.0
        found.append(total)
    return found


def graph_scores(
    histories: Sequence[Sequence[int]],
    user: Sequence[int],
    num_items: int,
    *,
    lags: int,
    lag_decay: float,
    second_hop: float,
    recency: float,
) -> NDArray[np.float64]:
    """Walk one and two edges of the transition graph from each event of the user."""
    counts = np.zeros((num_items, num_items))
    for items in histories:
        for place, item in enumerate(items):
            for lag, later in enumerate(items[place + 1 : place + 1 + lags]):
                if later != item:
                    counts[item, later] += lag_decay**lag
    shares = np.array([row / row.sum() if row.sum() else row for row in counts])
    scores = np.zeros(num_items)
    for item, weight in zip(user, falling_weights(user, recency), strict=True):
        scores += weight * (shares[item] + second_hop * shares[item] @ shares)
    return scores


def is_tiny_edit(first: str, second: str) -> bool:
    variants = [
        {text, *(text[:i] + text[i + 1 :] for i in range(len(text)))} for text in (first, second)
    ]
    return bool(variants[0] & variants[1])


def busiest_hour(times_s: Sequence[int]) -> int:
    return max(sum(start <= time < start + 3600 for time in times_s) for start in times_s)


def count_not_yet_there(requests: Sequence[int], born: Sequence[int | None]) -> int:
    return sum(day is not None and day > asked for asked in requests for day in born)


def rejected_by_holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Step down from the smallest p-value; stop at the first that is too large."""
    rejected = [False] * len(p_values)
    for step, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[place] > alpha / (len(p_values) - step):
            break
        rejected[place] = True
    return rejected


def items_by_users(slates: Sequence[Sequence[int]]) -> Counter[frozenset[int]]:
    """Count the items in the slates of exactly these users, for each set of users."""
    users: dict[int, set[int]] = defaultdict(set)
    for user, slate in enumerate(slates):
        for item in slate:
            users[item].add(user)
    return Counter(frozenset(own) for own in users.values())


def series_over_sets(
    first: Counter[frozenset[int]], second: Counter[frozenset[int]], damping: int
) -> float:
    """Sum (-1)^(|A| + 1) w n_A m_A over sets A of users; w comes from an enumerated binomial."""
    outcomes = list(itertools.product((0, 1), repeat=damping))
    positive = sum(sum(outcome) >= 1 for outcome in outcomes)
    total = 0.0
    for users in first:
        weight = sum(sum(outcome) >= len(users) for outcome in outcomes) / positive
        total -= (-1) ** len(users) * weight * first[users] * second[users]
    return total
