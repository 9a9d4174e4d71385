"""The items of a catalogue: labels, popularity, and one description for all pure rooms.

Tensors only; files are read in data/. Below: the words. Above: losses, metrics, rerank, models.
"""
