"""The application that Celery's workers load."""
import os

from celery import Celery

from .. import work

_path = os.environ["FUNCX_COMPARE_REDIS"]
app = Celery("compare", broker=f"redis+socket://{_path}", backend=f"redis+socket://{_path}")
# Tasks are acknowledged when they are done and come back when their worker is lost, as with the other systems.
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, broker_connection_retry_on_startup=True)
functions = {
    name: app.task(getattr(work, name), name=f"compare.{name}") for name in ("noop", "echo", "nap", "wait_for")
}
