"""Settings for making slates, with rules that refer to the items of a data set.

making.py applies them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
from torch import Tensor

from recdiv_core.config import Config, rerank_candidates
from recdiv_core.data.catalogue import (
    Catalogue,
)
from recdiv_core.data.rule_labels import labels_of_items, labels_of_rule
from recdiv_core.models.lifts import LIFTS, Lifts, check_lifts
from recdiv_core.rerank import Options
from recdiv_core.rerank.candidates import Rule
from recdiv_core.slate_rules import SlateRule, group_rules
from recdiv_core.slates.dataset import Dataset, as_labels
from recdiv_core.slates.eligibility import Eligibility, eligibility_of


@dataclass(frozen=True)
class SlatePolicy:
    """Settings for making slates of scores.

    Attributes:
        k: slate length.
        filter_seen: whether to leave out items of the user's history.
        method: name of the re-ranker.
        diversity: dial of the re-ranker in [0, 1]; 0 = order of the scores.
        num_candidates: number of top-scored items that the re-ranker chooses from. Items that rules
            ask for are added.
        logit_adjustment: factor of log popularity, which is subtracted from the scores first. Menon
            et al., 2021, Long-Tail Learning via Logit Adjustment, post hoc.
        options: further options of re-rankers, and the rules.
        eligible: which items may be shown at the time of a request; None = all items.
        lift: largest lift that is added to the scores of an item, see `rerank.lift`.
        lifts: lifts of the model; None = `lift` is 0.
    """

    k: int
    filter_seen: bool
    method: str
    diversity: float
    num_candidates: int
    logit_adjustment: float
    options: Options = field(default_factory=Options)
    eligible: Eligibility | None = None
    lift: float = 0.0
    lifts: Lifts | None = None

    @property
    def adjustment(self) -> tuple[float, float]:
        """The settings that adjust the scores of items, of all users alike."""
        return self.logit_adjustment, self.lift

    def lowered_V(self, log_prior_V: Tensor) -> Tensor | None:
        """Return what is subtracted from the scores of each item; None = nothing.

        `log_prior_V` is the log of each item's share of train events.
        """
        lowered_V = self.logit_adjustment * log_prior_V if self.logit_adjustment else None
        if not self.lift or self.lifts is None:
            return lowered_V
        bonus_V = self.lifts.bonus(self.lift)
        return -bonus_V if lowered_V is None else lowered_V - bonus_V

    @property
    def reranks(self) -> bool:
        """Whether a re-ranker changes the order of the scores."""
        return self.method != "none" and self.diversity > 0

    @property
    def reranker_options(self) -> Options:
        """Options without `exclude` rules, whose items are no candidates."""
        kept = tuple(rule for rule in self.options.rules if rule.kind != "exclude")
        return replace(self.options, rules=kept)


def _labels_of(rules: Sequence[SlateRule], catalogue: Catalogue) -> pa.ListArray:
    first = rules[0]
    return labels_of_items(rules, catalogue) if first.item_id else labels_of_rule(first, catalogue)


def fitted(lifts: Lifts | None, lift: float) -> Lifts | None:
    """Return the lifts of a model for `rerank.lift`; None if it is 0.

    Raises:
        UserError: the model has none.
    """
    check_lifts({} if lifts is None else lifts.state_dict(prefix=LIFTS), lift)
    return lifts if lift else None


def slate_policy(config: Config, dataset: Dataset, lifts: Lifts | None = None) -> SlatePolicy:
    """Build the policy of a config, with rules and lists that refer to the items of the data set.

    `lifts` belong to the model whose scores are ranked; None = it has none.

    Raises:
        UserError: see `eligibility_of`; or `rerank.lift` is set for a model without lifts.
    """
    rules = [
        Rule(
            rules[0].kind,
            as_labels(_labels_of(rules, dataset.catalogue)).to(dataset.text_VH.device),
            len({rule.item_id for rule in rules}) if rules[0].item_id else rules[0].count,
            rules[0].window,
            rules[0].share,
        )
        for rules in group_rules(config.rerank.rules)
    ]
    return SlatePolicy(
        k=config.eval.k,
        filter_seen=config.eval.filter_seen,
        method=config.rerank.method,
        diversity=config.rerank.diversity,
        num_candidates=rerank_candidates(config),
        logit_adjustment=config.rerank.logit_adjustment * config.model.temperature,
        options=Options(
            window=config.rerank.window,
            alpha=config.rerank.alpha,
            beam_width=config.rerank.beam_width,
            attributes={str(name): share for name, share in config.rerank.attributes.items()},
            rules=tuple(rules),
        ),
        eligible=eligibility_of(config, dataset.catalogue, dataset.manifest),
        lift=config.rerank.lift,
        lifts=fitted(lifts, config.rerank.lift),
    )
