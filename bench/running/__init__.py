"""From a request to rows: the grid, the plan, the cells' processes."""
