"""A client of the service at FUNCX_SERVICE, with the token in FUNCX_TOKEN; and a wait for results.

Against a service on port 5000 the three lines in `hello_world.py` are all it takes. The SDK knows no other address for
its `local` environment; elsewhere, `http_proxy` leads there.
"""

import os
import sys
import time

if not {"FUNCX_ENDPOINT_ID", "FUNCX_TOKEN"} <= os.environ.keys():
    sys.exit("set FUNCX_ENDPOINT_ID and FUNCX_TOKEN: `funcx up` prints the lines to paste")
SERVICE = os.environ.get("FUNCX_SERVICE", "http://127.0.0.1:5000")
if not SERVICE.endswith(":5000"):
    os.environ["http_proxy"] = SERVICE

import globus_sdk  # noqa: E402
from globus_compute_sdk import Client  # noqa: E402
from globus_compute_sdk.errors import TaskPending  # noqa: E402

ENDPOINT = os.environ["FUNCX_ENDPOINT_ID"]


def client():
    authorizer = globus_sdk.AccessTokenAuthorizer(os.environ["FUNCX_TOKEN"])
    return Client(local_compute_services=True, authorizer=authorizer)


def result(gcc, task_id):
    while True:
        try:
            return gcc.get_result(task_id)
        except TaskPending:
            time.sleep(0.005)


def results(gcc, task_ids):
    """Results in the order of `task_ids`; asks for all of them at once until none is pending.

    Tasks that failed are left out of a batch by the SDK; asked for alone, they raise what went wrong. A batch with more results
    than fit into an answer leaves some out as well.
    """
    while True:
        batch = gcc.get_batch_result(task_ids)
        if not any(task["pending"] for task in batch.values()):
            return [batch[task_id]["result"] if task_id in batch else result(gcc, task_id) for task_id in task_ids]
        time.sleep(0.005)
