"""One case table over every front end and every backend."""
