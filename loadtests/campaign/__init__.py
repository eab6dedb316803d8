"""A campaign: what is measured against what, in which order, on which servers, and what is kept of it."""
