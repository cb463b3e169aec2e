"""What every system runs. Plain functions of one argument, so that each system can be handed them as its users would."""
import os
import time


def noop(value):
    return value


def echo(text):
    return text


def nap(seconds):
    """Says which process ran it."""
    time.sleep(seconds)
    return os.getpid()


def wait_for(path):
    """Keeps a worker busy until `path` exists, two minutes at most."""
    end = time.time() + 120
    while time.time() < end and not os.path.exists(path):
        time.sleep(0.05)
    return os.getpid()
