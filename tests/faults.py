"""Table of faults for tests/mutate.py; it is long because it is data.

The key is a file of recdiv_core. The value holds the tests that must notice a fault, and pairs of
(original text, faulty text). The original text occurs exactly once in the file. Kinds of faults:
signs, off by one, wrong denominators, missing masks, orders of ties, ratios before sums.
"""

from __future__ import annotations

from typing import Final

Faults = dict[str, tuple[str, list[tuple[str, str]]]]

LOSSES: Final[Faults] = {
    "losses/diversity.py": (
        "test_diversity_losses",
        [
            ("mean.square().sum(1) - own", "mean.square().sum(1)"),
            ("return similarity.clamp(0.0, 1.0)", "return (1 - similarity).clamp(0.0, 1.0)"),
            ("((bound - log_det) / bound", "(log_det / bound"),
            ("log_det = 2 * factor", "log_det = factor"),
            (".flatten().index_select(0, row_N) * part_N\n", ".flatten().index_select(0, row_N)\n"),
            (
                "history * (history.clamp_min(tiny).log() - slate",
                "slate * (history.clamp_min(tiny).log() - slate",
            ),
            ("torch.where(history.sum(1) > 0, breadth", "torch.where(history.sum(1) > 9, breadth"),
            ("max(1, min(slates.slate_size, num_categories))", "max(1, slates.slate_size)"),
            ("values.clamp_min(0), q * (values >= 0)", "values.clamp_min(0), q"),
            ("weight / total * REGULARISERS", "weight * REGULARISERS"),
            ("kept / taught.sum(1).clamp_min(1)", "kept / slates.slate_size"),
        ],
    ),
    "losses/aggregate.py": (
        "test_aggregate",
        [
            ("slates.num_places / SHOWN_ENOUGH", "slates.num_places"),
            ("(excess - math.log(floor)) / (math.log(max", "(math.log(max"),
            (".pow(power)", ".pow(1 - 0.9 * power)"),
            ("own.clamp_min(torch.finfo(own.dtype).tiny).log() - common", "common"),
            ("(q * cost).sum(1) / q.sum(1)", "(q * cost).sum(1) / q.sum()"),
        ],
    ),
    "losses/relevance.py": (
        "test_relevance",
        [
            ("shift_S = -logq_alpha * log_expected_S", "shift_S = logq_alpha * log_expected_S"),
            ("negatives_S == targets[:, None], -torch.inf", "negatives_S == -1, -torch.inf"),
            ("odds.scatter_add_(1, targets, -norm)", "odds.scatter_add_(1, targets, -0.5 * norm)"),
        ],
    ),
    "losses/soft_topk.py": (
        "test_soft_topk",
        [
            (
                "too_many = torch.sigmoid(scaled - middle).sum(1, keepdim=True) > k",
                "too_many = torch.sigmoid(scaled - middle).sum(1, keepdim=True) > k - 1",
            ),
            ("return slope * centred / ctx.temperature", "return slope * centred"),
            ("slope = soft * (1 - soft)", "slope = soft"),
        ],
    ),
    "items/popularity.py": (
        "test_exposure test_scorecard test_tally test_negatives",
        [
            ("num_events_V.double() + 1", "num_events_V.double() + 1e-9"),
            (
                "num_events_V.argsort(descending=True, stable=True)",
                "num_events_V.flip(0).argsort(descending=True, stable=True).sub(len(num_events_V) - 1).neg()",
            ),
            ("share_before_V >= TAIL_FROM", "share_before_V > TAIL_FROM"),
            (
                "num_events_V.double().clamp(min=1) / num_train_users",
                "num_events_V.double().clamp(min=1)",
            ),
            ("num_events_V == 0, len(num_events_V) + 1", "num_events_V == 0, len(num_events_V)"),
        ],
    ),
    "losses/negatives.py": (
        "test_negatives",
        [
            ("max(0, targets_N.shape[0] - 1)", "max(0, targets_N.shape[0])"),
            ("uniform_U.shape[0] / (num_items or log_share_V.shape[0])", "uniform_U.shape[0]"),
        ],
    ),
    "items/traits.py": (
        "test_soft_slates",
        [("events_BG / events_BG.sum(1, keepdim=True)", "events_BG / events_BG.sum()")],
    ),
}

METRICS: Final[Faults] = {
    "metrics/accuracy.py": (
        "test_accuracy",
        [
            (
                "return _num_hits(slates) / slates.k",
                "return _num_hits(slates) / slates.is_item_BK.sum(1)",
            ),
            (
                "slates.num_targets_B.clamp(max=slates.k) - 1\n",
                "slates.num_targets_B.clamp(max=slates.k) - 2\n",
            ),
            ("(_ranks(slates) + 1).log2()", "(_ranks(slates) + 2).log2()"),
            ("sums_B / slates.num_targets_B.clamp(max=slates.k)", "sums_B / slates.num_targets_B"),
            ("num_targets_B * (num_targets_B - 1) / 2", "0.0 * num_targets_B"),
            ("2 * first * second / total", "first * second / total"),
            (".amax(dim=1)\n\n\ndef map_", ".sum(dim=1)\n\n\ndef map_"),
        ],
    ),
    "metrics/diversity.py": (
        "test_diversity test_scorecard",
        [
            (
                "slates.length_B * (slates.length_B - 1)\n    ild_B",
                "slates.k * (slates.length_B - 1)\n    ild_B",
            ),
            (
                "min(slates.k, slates.traits.num_categories)\n    if",
                "slates.traits.num_categories\n    if",
            ),
            (".masked_fill(~is_pair_BKK, torch.inf)", ""),
            ("sizes_BK[:, second_P] - common_BP", "sizes_BK[:, second_P]"),
            ("1 - shares_BM.square().sum(dim=1)", "shares_BM.square().sum(dim=1)"),
            ("values_BK >= 0\n", "values_BK >= -1\n"),
        ],
    ),
    "metrics/exposure.py": (
        "test_exposure test_scorecard",
        [
            ("(exposure_V > 0).double()", "(exposure_V > 1).double()"),
            ("2 * ranks_V - num_items - 1", "2 * ranks_V - num_items"),
            ("exposure_V * (exposure_V - 1)", "exposure_V * exposure_V"),
            ("bits_BK.sum(dim=1) / slates.length_B.clamp(min=1)", "bits_BK.sum(dim=1) / slates.k"),
            ("slates.is_item_BK & ~is_popular_BK", "~is_popular_BK"),
            (
                ".clamp(min=0).double() / slates.traits.num_items",
                ".double() / slates.traits.num_items",
            ),
            ("slates.length_B == slates.k", "slates.length_B >= slates.k - 1"),
        ],
    ),
    "metrics/tally.py": (
        "test_tally",
        [
            ("float(total) / int(count)", "float(total) / num_users"),
            ("values_MB.where(exists_MB, 0.0)", "values_MB.where(exists_MB, 1.0)"),
            ("num_users=self.num_users + other.num_users", "num_users=self.num_users"),
            (
                "count(slates.items_BK[slates.is_item_BK])",
                "count(slates.items_BK[slates.is_hit_BK])",
            ),
            ("num_held_out = num_judged + int", "num_held_out = int"),
        ],
    ),
    "metrics/slate_batch.py": (
        "test_tally test_scorecard",
        [
            ("& (items_BK >= 0)\n", "\n"),
            ("- self.look_up(squared_norm_V).sum(dim=1)", ""),
            ("is_new_BM[:, 1:] = labels_BM[:, 1:] != labels_BM[:, :-1]", "is_new_BM[:, 1:] = 1"),
            ("found.place_BM >= self.k", "found.place_BM > self.k"),
        ],
    ),
    "metrics/narrowing.py": (
        "test_narrowing",
        [
            ("of_slate_B < of_history_B", "of_slate_B <= of_history_B"),
            ("of_history_B > 0, is_narrowed_B", "of_history_B >= 0, is_narrowed_B"),
            ("background.history_user_S.flip(0)  # the latest", "background.history_user_S  #"),
            ("num_latest_B)\n", "num_latest_B + 1)\n"),
        ],
    ),
    "metrics/between.py": (
        "test_between",
        [
            ("own_B - 2 * common_B", "own_B - common_B"),
            ("- mix_G.square().sum() - none.square()", "- mix_G.square().sum()"),
            ("is_none_B, none, common_B", "is_none_B, 0.0, common_B"),
        ],
    ),
    "fronts/choice.py": (
        "test_choice",
        [
            ("(after - before) / (abs(before) or 1.0)", "after - before"),
            ("< -slack(trial, reference, objective)", "< slack(trial, reference, objective)"),
            ("return min(shares), sum(shares)", "return sum(shares), min(shares)"),
            ("objective) / asked for", "objective) for"),
            ("min(COVERAGE_GOAL, MISSING_GOAL * missing / before)", "COVERAGE_GOAL"),
            ("if not point.breaks", "if point"),
            ("FEWEST_SEEDS: Final = 3", "FEWEST_SEEDS: Final = 2"),
        ],
    ),
    "metrics/calibration.py": (
        "test_calibration test_scorecard",
        [
            ("(history_H / mixed_H).log()", "(mixed_H / history_H).log()"),
            ("(1 - SMOOTHING) * slate_H + SMOOTHING * history_H", "slate_H + SMOOTHING"),
            ("torch.where(keys[place] == wanted, values[place], 0.0)", "values[place]"),
        ],
    ),
    "metrics/intent.py": (
        "test_intent test_scorecard",
        [
            ("worth_BL * REPEATED", "worth_BL"),
            (".masked_fill(~hit_BK[:, rank, None], -1)", ""),
            ("worth_BN[:, -1] = 0", "worth_BN[:, -1] = 1"),
            ("gain_BT.masked_fill(~is_left_BT, -1).argmax(dim=1)", "gain_BT.argmax(dim=1)"),
        ],
    ),
    "metrics/groups.py": (
        "test_scorecard test_groupings test_evaluate",
        [
            ("& (slates.targets_BT >= 0)\n", "\n"),
            ("[:, slates.has_targets_R]", "[:, : slates.num_users]"),
            ("num_targets_B=is_wanted_NT.sum(dim=1)", "num_targets_B=slates.num_targets_B[user_N]"),
        ],
    ),
    "metrics/fairness.py": (
        "test_fairness",
        [
            ("shown / (size / num_items)", "shown / size"),
            ("statistics.pstdev(rates)", "statistics.stdev(rates)"),
            ("max(1, min_size)", "max(1, min_size + 1)"),
        ],
    ),
    "metrics/bootstrap.py": (
        "test_bootstrap",
        [
            ("(fewer + 1) / (len(samples) + 1)", "fewer / len(samples)"),
            ("(len(p_values) - rank) * p_values", "len(p_values) * p_values"),
            ("largest = max(largest, min", "largest = (min"),
        ],
    ),
    "metrics/jackknife.py": (
        "test_jackknife",
        [
            ("* (num_groups - 1) / num_groups\n", "/ num_groups\n"),
            ("/ (exists_U.sum() - counts_G)", "/ exists_U.sum()"),
            (
                "slates_UK.ravel() + 1, minlength=num_items + 1)[1:]",
                "slates_UK.ravel() % num_items, minlength=num_items)",
            ),
        ],
    ),
    "metrics/repeats.py": (
        "test_repeats",
        [
            ("math.sqrt(len(values))", "math.sqrt(len(values) - 1)"),
            ("0.5 + level / 2", "level"),
        ],
    ),
    "items/labels.py": (
        "test_labels",
        [
            (".where(place_L < lengths, -1)", ""),
            ("(labels_IL >= 0) * part_I1", "part_I1.expand_as(labels_IL)"),
            ("before_I = lengths_I.cumsum(0) - lengths_I", "before_I = lengths_I.cumsum(0)"),
            ("label_N.masked_fill(part_N == 0, -1)", "label_N"),
        ],
    ),
}

RERANKERS: Final[Faults] = {
    "rerank/mmr.py": (
        "test_mmr test_compiled",
        [
            ("torch.minimum(nearest", "torch.maximum(nearest"),
            ("num_candidates), 2.0)", "num_candidates), 0.0)"),
        ],
    ),
    "rerank/msd.py": (
        "test_msd test_compiled",
        [("2 / max(1, k - 1)", "2 / k"), ("alpha=share", "alpha=1")],
    ),
    "rerank/dpp.py": (
        "test_dpp test_compiled",
        [(".clamp_min(SMALLEST).log_()", ".clamp_min(SMALLEST)"), ("exact=True", "exact=False")],
    ),
    "rerank/ssd.py": (
        "test_ssd test_compiled",
        [("offset=-BIAS", "offset=0.0"), (".sqrt_()", "")],
    ),
    "rerank/span.py": (
        "test_dpp test_ssd test_compiled",
        [
            (
                "self.left_RC.addcmul_(row_RC, row_RC, value=-1)",
                "self.left_RC.addcmul_(row_RC, row_RC)",
            ),
            ("sine_R1 * oldest_RC\n            oldest", "0 * oldest_RC\n            oldest"),
            ("window or k - 1", "window + 1 if window else k - 1"),
        ],
    ),
    "rerank/compiled.py": (
        "test_compiled",
        [
            ("- np.int64(n))\n    return", "+ np.int64(n))\n    return"),
            (
                "ONE - cosine_MN[row, n])\n\n\n@_compiled()\ndef _add_distances",
                "cosine_MN[row, n])\n\n\n@_compiled()\ndef _add_distances",
            ),
        ],
    ),
    "rerank/xquad.py": (
        "test_xquad",
        [("options.alpha * shares_BCL", "options.alpha + 0 * shares_BCL")],
    ),
    "rerank/fading.py": (
        "test_xquad test_alpha test_labels",
        [
            ("1 - met_BCL, default=1.0", "met_BCL, default=1.0"),
            ("default=1.0", "default=0.5"),
            ("labels_of(best_BW) + 1, values_of", "labels_of(best_BW).clamp_min(0), values_of"),
        ],
    ),
    "rerank/alpha.py": (
        "test_alpha",
        [
            ("weight / total * shares_of", "weight * shares_of"),
            ("own_BCL * len(names) + index", "own_BCL"),
        ],
    ),
    "rerank/calibrated.py": (
        "test_calibrated",
        [
            ("(1 - KEPT_TASTE) / (length + 1)", "(1 - KEPT_TASTE) / (length + 2)"),
            ("with_BWLC.clamp_min(tiny).log() - without", "without"),
        ],
    ),
    "rerank/beam.py": (
        "test_beam",
        [("novelty_BWC.copy_(-(", "novelty_BWC.copy_(("), ("== options.beam_width", ">= 1")],
    ),
    "rerank/exposure.py": (
        "test_rerank_exposure",
        [
            ("worth_P.argsort(descending=True, stable=True)", "worth_P.argsort(stable=True)"),
            ("place_P >= capacity", "place_P > capacity"),
            ("-(-num_users * k // candidates", "(num_users * k // candidates"),
            ("is_open_BC.cumsum(dim=1) <= k", "is_open_BC.cumsum(dim=1) < k"),
        ],
    ),
    "rerank/relevance.py": (
        "test_rerank test_mmr test_dpp",
        [
            (".where(high_B1 > low_B1, 1.0)", ".where(high_B1 > high_B1, 1.0)"),
            (
                ".square().sum(dim=1, keepdim=True) / num_real_B1).sqrt()",
                ".square().sum(dim=1, keepdim=True)).sqrt()",
            ),
        ],
    ),
    "rerank/greedy.py": (
        "test_rerank test_mmr test_quota",
        [
            ("left_BWC.scatter_(2, best_BW[..., None], -torch.inf)", "pass"),
            ("(1 - weigh_W)[:, None]", "(1 + weigh_W)[:, None]"),
            (
                "is_end_B1K = torch.arange(steps, device=picks_KBW.device) >= num",
                "is_end_B1K = torch.arange(steps, device=picks_KBW.device) > num",
            ),
        ],
    ),
    "rerank/none.py": (
        "test_rerank",
        [("argsort(dim=1, descending=True, stable=True)", "argsort(dim=1, stable=True)")],
    ),
    "rerank/quota.py": (
        "test_quota test_labels",
        [
            ("num_alike_BWL < self._most", "num_alike_BWL <= self._most"),
            ("len(self._past) >= self._window", "len(self._past) > self._window"),
            ("short_BWC > after_B11 * need.most_B11", "short_BWC >= after_B11 * need.most_B11"),
            ("self._is_new_BWLC &= ~is_met_BWLC", "self._is_new_BWLC &= is_met_BWLC"),
            (
                "(labels_BWL >= 0).any(0).any(0).sum()))]",
                "(labels_BWL >= 0).any(0).any(0).sum()) - 1)]",
            ),
        ],
    ),
    "rerank/breaches.py": (
        "test_quota",
        [
            (">= rule.count\n        over_NP", "> rule.count\n        over_NP"),
            ("place_NE - first_NE)", "place_NE)"),
            ("clamp_min(0)\n        is_window_NP", "clamp_min(1)\n        is_window_NP"),
        ],
    ),
    "rerank/wanted.py": (
        "test_making",
        [
            ("is_beyond_BM, -torch.inf", "~is_beyond_BM, -torch.inf"),
            ("scores_BC[:, -1:], -torch.inf)", "score_BA, -torch.inf)"),
        ],
    ),
    "rerank/top_scores.py": (
        "test_top_scores",
        [
            ("keys = (-tied_tk", "keys = (tied_tk"),
            ("is_equal_V.nonzero()[:num_places, 0]", "is_equal_V.nonzero()[-num_places:, 0]"),
            ("grouped_bGg.amax(dim=1)", "grouped_bGg.amin(dim=1)"),
        ],
    ),
    "models/baselines/popularity.py": (
        "test_baselines",
        [('np.argsort(-counts_V, kind="stable")', 'np.argsort(counts_V, kind="stable")')],
    ),
    "models/baselines/neighbours.py": (
        "test_baselines",
        [
            ("np.lexsort((col, -weight, row))", "np.lexsort((-col, -weight, row))"),
            ("norm_V[col] + shrinkage", "norm_V[col]"),
            ("cosine[row + start == col] = 0.0", "cosine[row == col] = 0.0"),
        ],
    ),
    "models/baselines/ease.py": (
        "test_baselines",
        [
            ("weight_MM /= -inverse", "weight_MM /= inverse"),
            ("np.sort(popular_V[: max_items", "np.sort(popular_V[-max_items:][: max_items"),
        ],
    ),
    "models/baselines/rp3beta.py": (
        "test_baselines",
        [("_TINY) ** -beta", "_TINY) ** beta"), ("to_item_UV.data **= alpha", "pass")],
    ),
    "models/baselines/buy_again.py": (
        "test_baselines",
        [('len(popular_V), "sum")', 'len(popular_V), "amax")')],
    ),
    "models/baselines/graph.py": (
        "test_baselines",
        [
            ("lag_decay ** (lag - 1)", "lag_decay**lag"),
            ("& (earlier != later)", "& (earlier >= 0)"),
            ("ends = earlier[is_edge], later[is_edge]", "ends = later[is_edge], earlier[is_edge]"),
        ],
    ),
    "models/baselines/text_profile.py": (
        "test_baselines",
        [("if n > 1", "if n > 0"), ("(1 + np.log(count_M))", "count_M")],
    ),
    "models/baselines/histories.py": (
        "test_baselines",
        [("- set_S + 1", "- set_S + 2"), ("double() ** -recency", "double() ** recency")],
    ),
    "slates/making.py": (
        "test_making",
        [
            ("scores_BV -= policy.logit_adjustment", "scores_BV += policy.logit_adjustment"),
            ("if policy.filter_seen:\n", "if False:\n"),
            ("(balance_P.double() + num_items - 1) / 2", "(balance_P.double() + num_items) / 2"),
        ],
    ),
}

SPLITS: Final[Faults] = {
    "data/derived_categories.py": (
        "test_derived_categories",
        [
            ("num_given >= FEW_GIVEN", "num_given > FEW_GIVEN"),
            ('- int("" in set(texts.to_pylist()))', ""),
            ("np.where(has_text_D, labels[place_D], -1)", "labels[place_D]"),
            ("place_D = np.cumsum(has_text_D) - 1", "place_D = np.arange(len(has_text_D)) - 1"),
            ("if score > best[1]:", "if score < best[1]:"),
            ("own_W - mean_W", "own_W"),
            ("if not any(_is_like(word, other) for other in kept):", "if True:"),
            ("name if name not in names else", "name if True else"),
        ],
    ),
    "data/split.py": (
        "test_split",
        [
            ("times_N < val_from", "times_N <= val_from"),
            ("before_test - before_val, np.diff", "before_test, np.diff"),
            ("lengths >= 3", "lengths >= 2"),
            (
                "in_core_B = _sum_by_user(is_train_N, events.offsets_B) >= min",
                "in_core_B = _sum_by_user(is_train_N, events.offsets_B) > min",
            ),
            ("counts_B3[:, :part].sum(1)", "counts_B3[:, : part + 1].sum(1)"),
            ("step = MAX_EXAMPLE_EVENTS - 1", "step = MAX_EXAMPLE_EVENTS"),
            (
                "is_train_N = (mark_parts(counts_B3) == TRAIN) & in_core_V[events.items_N]",
                "is_train_N = in_core_V[events.items_N]",
            ),
            (
                "is_first = _mark_first(rows_M, events.items_N[held_out])",
                "is_first = np.ones(len(rows_M), bool)",
            ),
            ("(query_R[rows_M] == NO_QUERY) | (events", "(events"),
            (
                "(np.diff(events.times_N) == 0) & (np.diff(events.users_N) == 0)",
                "(np.diff(events.times_N) == 0)",
            ),
            ("pa.array(~has_train_B[users_R])", "pa.array(has_train_B[users_R])"),
        ],
    ),
}

ADAPTERS: Final[Faults] = {
    "formats/values.py": (
        "test_values",
        [
            ('"|".join(str(value)', '",".join(str(value)'),
            ("pc.less(pc.abs(array), 2.0**63)", "pc.less(pc.abs(array), 2.0**64)"),
            (
                "pc.if_else(is_whole, whole.cast(pa.string()), array.cast",
                "pc.if_else(is_whole, array.cast(pa.string()), array.cast",
            ),
            ("pc.if_else(pc.is_finite(array), array, None)", "array.fill_null(0)"),
            ("pc.utf8_lower(bare)", "bare"),
            ("([+-]?[0-9]+)\\.0+$", "([+-]?[0-9]+)\\.[0-9]+$"),
            (".casefold())", ")"),
            ("flags.fill_null(False)", "flags.fill_null(True)"),
            ('pc.if_else(pc.equal(array, "")', 'pc.if_else(pc.equal(array, "a")'),
        ],
    ),
    "formats/timestamps.py": (
        "test_timestamps",
        [
            ("size >= LARGEST[unit] for", "size > LARGEST[unit] * 1000 for"),
            ("> len(distinct) / 2", "> 0"),
            ("exact = whole // 1000 if", "exact = whole // 100 if"),
            ("(size >= smallest) & ", ""),
            ('*)?$"))] = 2', '*)?$"))] = 0'),
            ("(given < END_US / scale)", "(given < END_US * scale)"),
            ("(UTC|GMT)$", "(GMT)$"),
            ('name == "order" or size < SMALLEST', "size < SMALLEST"),
            ("np.where(is_number, 2, 1)", "np.where(is_number, 1, 1)"),
        ],
    ),
    "formats/csv_lines.py": (
        "test_csv_lines test_readers test_text_lines",
        [
            ("is_odd[list(undecodable)] = True", "pass"),
            ("(row.number - 1, row.actual_columns)", "(row.number - 2, row.actual_columns)"),
            ('order = np.argsort(lines_N, kind="stable")', "order = np.arange(len(lines_N))"),
        ],
    ),
    "formats/csv_rows.py": (
        "test_csv_lines test_readers",
        [
            ("num_stray += b'\"' in text[pos:end]", "num_stray += 0"),
        ],
    ),
    "formats/odd_lines.py": (
        "test_csv_lines test_readers test_text_lines",
        [
            ("best[k], stops[k] = cost, stop", "best[k], stops[k] = cost, k + 1"),
            ("COST_SWALLOWED * int(", "0 * int("),
            ("found.rows.append((start, jump[1]))", "found.rows.append((start + 1, jump[1]))"),
            (" or number in block.undecodable", ""),
        ],
    ),
    "formats/readers.py": (
        "test_readers test_reshape test_files",
        [
            ("first_row = number * FILE_STRIDE", "first_row = 0"),
            ("first_row += num_rows", "first_row += 0"),
            ("if lacking and (ours in required", "if not is_there and (ours in required"),
            ("start, num_rows = group + 1, 0", "start, num_rows = group, 0"),
            ("if name not in table.column_names:", "if False:"),
            ("header.count(name) > 1", "header.count(name) > 2"),
        ],
    ),
    "formats/nested.py": (
        "test_nested",
        [
            ("sizes == lengths[0]", "sizes == sizes"),
            ("fill_null(0).to_numpy", "fill_null(1).to_numpy"),
            ("path = path[size:]", "path = path[1:]"),
            ("(path or name in lists)", "(path and name in lists)"),
            ("pa.array(~is_even)", "pa.array(is_even)"),
        ],
    ),
    "data/events.py": (
        "test_events",
        [
            ("row.times_N < 0,", "row.times_N < -9,"),
            ("row.items_N < 0,", "row.items_N < -1,"),
            ("(row.times_N > log.latest)", "(row.times_N < log.latest)"),
            ("(row.ratings_N < least)", "(row.ratings_N <= least)"),
            ("~np.isin(row.events_N, wanted)", "np.isin(row.events_N, wanted)"),
            ("is_kept_N = is_sound_N & (rules_N == 0)", "is_kept_N = is_sound_N"),
            ("hashes % config.data.num_shards", "hashes % 2"),
        ],
    ),
    "data/staging.py": (
        "test_staging",
        [
            (
                '("user", "time", "item", "event", "query", "session")',
                '("user", "time", "item", "query", "session")',
            ),
            ("(np.diff(times) > gap_us)", "(np.diff(times) >= gap_us)"),
            (" & (session[1:] < 0)", ""),
            ('by_time = (codes["row"], codes["time"]', 'by_time = (-codes["row"], codes["time"]'),
            ("len(order) - len(kept)", "len(kept)"),
        ],
    ),
    "data/items.py": (
        "test_catalogue",
        [
            ("table.take(pc.sort_indices(digests))", "table"),
        ],
    ),
}
