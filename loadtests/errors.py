"""The one exception of the load tests."""


class LoadTestError(RuntimeError):
    """Raised where a load test could not be run or read: the text says what happened and what to do.

    Failed requests are figures, not errors; they never raise this.
    """
