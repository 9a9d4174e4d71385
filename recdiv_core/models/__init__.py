"""The two towers, their score, and the pretrained text encoder below the items."""
