"""Record the tables anew."""

from tests.golden import TABLES, WIDTHS, file, screen

for name in TABLES:
    for width in WIDTHS:
        file(name, width).write_text(screen(name, width), encoding="utf-8")
