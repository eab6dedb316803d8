"""Pure pairs of functions between wire forms and core types: no sockets, no settings, no logging."""
