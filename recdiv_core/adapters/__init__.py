"""From the files of a shop, or of a published data set, to the clicks and items that we read.

Columns are guessed, or known by a layout. Rows are validated later. Below: formats. Above: data.
"""
