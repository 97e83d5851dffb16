from strangers import Calm as Variant

for _ in range(200):
    print("y" * 2**20)  # noqa: T201

__all__ = ["Variant"]
