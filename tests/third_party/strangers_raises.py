raise ImportError("libfoo.so.3 isn't there")
