"""Finding plugins: entry points, files, notebooks; their hyperparameters, their source, their failures."""
