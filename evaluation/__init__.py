"""Two-stage retrieval and ranked answers, with their metrics."""
