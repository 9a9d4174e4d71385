"""Sweeps: search, early stopping and tracking of many training runs on one cluster.

Not a single training run (training/). Below: training, report. Above: the pipelines.
"""
