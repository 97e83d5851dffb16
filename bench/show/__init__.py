"""What people look at: the terminal, pictures of a trained model, notebooks, the report."""
