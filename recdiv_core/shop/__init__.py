"""The built-in shop: a generator of click logs with known tastes of the users.

`prepare` reads its log like any other log.
"""
