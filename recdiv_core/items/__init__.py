"""What losses, metrics and re-rankers know of the items: categories, vectors, popularity.

Tensors only; nothing is read from files here (data/). Below: the words. Above: losses, metrics,
rerank, models.
"""
