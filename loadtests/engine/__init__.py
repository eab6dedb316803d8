"""The generator: sends what a schedule says at the instants it says, and keeps what became of every request."""
