import os

from strangers import Calm as Variant

os.umask(0o777)

__all__ = ["Variant"]
