"""Sheets of images and vector figures."""
