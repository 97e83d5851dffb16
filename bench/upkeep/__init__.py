"""The verbs that look after results: explain, verify, merge."""
