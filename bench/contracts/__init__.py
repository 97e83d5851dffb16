"""The contracts between plugins and rooms: variants, datasets, metrics, loggers, executors, protocols, events, rows."""
