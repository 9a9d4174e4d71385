"""Files and paths, local or in a store: written whole, claimed by one process at a time.

Not the formats of data files (formats/). Below: errors.py. Above: config.py and its neighbours.
"""
