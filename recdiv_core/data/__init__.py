"""The way of the data: raw log to prepared data set, and from there to the tensors of a step."""
