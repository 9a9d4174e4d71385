"""What training minimises: the relevance of the next item, and penalties on similar slates."""
