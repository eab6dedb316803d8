"""`python -m serving up`: the commands of this package alone; also what `twinserve up --detach` leaves running."""

from serving.cli import app

app()
