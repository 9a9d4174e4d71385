"""What training minimises: relevance of the next item, and penalties on slates that are alike."""
