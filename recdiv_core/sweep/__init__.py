"""Many training runs in one search: what is tried next, what is stopped early, one MLflow run each.

Not one training (training/). Below: training, report. Above: the pipelines.
"""
