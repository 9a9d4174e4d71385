"""Further training of a text encoder on the texts of a shop, before any model."""
