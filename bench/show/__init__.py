"""Output for people: the terminal, pictures of a trained model, notebooks, the report."""
