"""The protocol matrix: every front end, to every backend, with every datatype and shape, on real servers."""
