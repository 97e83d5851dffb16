"""What the suite is timed against. Frozen: tuned once as their users would, and never slowed to win by.

They import nothing from `bench`, so no change of its kernels reaches them.
"""
