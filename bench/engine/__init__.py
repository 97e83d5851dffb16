"""The one trainer and the one evaluator."""
