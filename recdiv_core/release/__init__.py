"""Versions of a model in MLflow's registry, and the gate that a champion must pass.

Below: evaluation, slates. Above: the pipelines.
"""
