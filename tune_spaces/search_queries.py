"""Search first: the NDCG of requests with a query against the diversity of what they show.

Weight x mix of regularisers, from one warm w = 0 model. The first objective is the accuracy of
requests with a query; the others are diversity, of their slates and of the shop. A trial must keep
98 % of the baseline's accuracy with a query, and 97 % over all requests. The log needs queries
(docs/search.md).
"""

from ray import tune

from recdiv_core.search_space import Constraint, Objective, SearchSpace
from tune_spaces import FURTHER, WARM

SPACE = SearchSpace(
    description="accuracy of requests with a query x diversity, from one warm w = 0 model",
    parameters={
        "loss.diversity_weight": tune.grid_search([0.01, 0.03, 0.1]),
        "loss.diversity": tune.grid_search([{"coverage": 1.0}, {"ild": 1.0, "coverage": 3.0}]),
    },
    objectives=(
        Objective("val/query_ndcg", "max", reference=0.0),
        Objective("val/query_ild", "max", reference=0.0),
        Objective("val/coverage", "max", reference=0.0),
    ),
    constraints=(
        Constraint("val/query_ndcg", at_least=0.98),
        Constraint("val/ndcg", at_least=0.97),
    ),
    fixed=FURTHER,
    warm_start=WARM,
    grace_epochs=2,
)
