"""How plugins are found: entry points, files, notebooks; their hyperparameters, their source, their failures."""
