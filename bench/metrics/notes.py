"""Notes that several families of metrics share."""

from __future__ import annotations

from bench.contracts.measurement import Note

COLLAPSED = Note("posterior collapsed: codes hardly depend on the image", "posterior_collapse", warns=True)


def real_images(n: int, score: float, se: float | None = None, which: str = "held-out real images") -> Note:
    """Return the note of what `n` real images score in the place of samples."""
    values = {"n": n, "floor": score} | ({} if se is None else {"se": se})
    return Note(f"{{n}} {which} score {{floor}}" + ("" if se is None else " ± {se}"), "real_images", values)
