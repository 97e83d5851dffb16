"""Small helpers that know nothing of the suite: files that appear whole, threads, words, folders."""
