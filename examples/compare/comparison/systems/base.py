"""What the driver asks of a system."""


class Failed(Exception):
    """A task that did not return."""


class Unsupported(Exception):
    """A figure that this version of a system cannot give."""


class System:
    """One system under test, driven as its users drive it."""

    def __init__(self, setup):
        #: `directory`, which the harness removes; `variant`; `funcx`, the binary.
        self.setup = setup

    def versions(self):
        """Names and versions of the packages that matter."""
        return {}

    def start(self):
        """Starts everything: two workers."""
        raise NotImplementedError

    def stop(self):
        """Stops what it can stop by itself; the harness ends the rest."""

    def submit(self, name, arguments):
        """Submits a call of `work.NAME` for each argument, all at once. What comes back is for `collect`."""
        raise NotImplementedError

    def collect(self, submitted):
        """The values in the order of the arguments; an exception in place of each value that there is not."""
        return [outcome(future) for future in submitted]

    def call(self, name, argument):
        """One call, alone."""
        return self.collect(self.submit(name, [argument]))[0]


def outcome(future):
    """The value of a future, or what it failed of."""
    try:
        return future.result()
    except Exception as error:  # whatever a peer raises
        return Failed(f"{type(error).__name__}: {error}")
