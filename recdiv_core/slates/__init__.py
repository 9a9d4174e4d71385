"""A trained model and a data set -> slates for users.

Not the metrics of the slates (evaluation/) nor the training. Below: data, models, rerank. Above:
evaluation.
"""
