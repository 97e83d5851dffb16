"""The report of one run or several: one HTML file that needs nothing else, not even a server.

exhibit.py      which cell of a label is shown, and what is left of a figure that can't be made
sheet.py        images as one picture inside the page
chart.py        axes of the page's own figures
curves.py, sharpness.py, tradeoff.py, plane.py, codebook.py     one figure each
studio.py       what only a trained model can show, asked for by its abilities
provenance.py   what it was made of, and the command that repeats it
page.py         all of it in the template, behind a policy that lets nothing in or out
"""
