"""The report of one run or several: one HTML file that needs no other file and no server.

exhibit.py      the cell that stands for each label, and the reason of a figure that is missing
sheet.py        images as one picture in the page
curves.py, sharpness.py, tradeoff.py, plane.py     one kind of figure each
studio.py       pictures of a trained model
chapter.py      one dataset
failures.py     cells without a result
provenance.py   the command that repeats a run, and the settings of each label
page.py         the HTML file
"""
