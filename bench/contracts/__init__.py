"""What plugins and rooms agree on: variants, datasets, metrics, loggers, executors, protocols, events, rows."""
