"""`python -m twinserve` is `twinserve`."""

from twinserve.main import main

main()
