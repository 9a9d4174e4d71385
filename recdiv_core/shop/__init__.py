"""The built-in shop: a generator of click logs whose truth is known.

Not the reading of logs. Below: the words. Above: data, which prepares its log like any other.
"""
