"""The verbs, by what they are about. Each parses, calls and prints; what it calls is imported in it."""
