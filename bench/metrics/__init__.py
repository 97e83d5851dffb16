"""The first-party metrics, one file a family, registered like anybody's."""
