"""The systems under test: what each needs, and which module drives it.

This file is read by the harness, which has none of the peers installed; the modules beside it are imported in a peer's own
environment only.
"""
import dataclasses

WARM = ("cold_start", "round_trip", "noop", "noop_large", "echo_1mib", "recovery")
SPAWN = ("spawn_round_trip", "spawn")


@dataclasses.dataclass(frozen=True)
class Spec:
    """A system, as the command line names it."""

    module: str
    title: str
    surface: str
    role: str = "peer"
    variant: str = ""
    requirements: tuple = ()
    program: str = ""
    figures: tuple = (*WARM, "memory")


_DASK = ("distributed==2026.8.0",)
_EXECUTORLIB = ("executorlib==1.11.0",)
_CELERY = ("celery==5.7.0", "redis==8.1.0", "packaging==26.0")

SYSTEMS = {
    "funcx-http": Spec(
        "funcx_http", "funcx, Python over HTTP", "`funcx up`; http.client against /v1, batch submit, event stream", "ours"
    ),
    "funcx-cli": Spec(
        "funcx_cli", "funcx, command line", "`funcx up`; the Rust client through `funcx run`, `bench latency`, `map --chunk 1`",
        "ours", figures=("cold_start", "round_trip", "noop", "noop_large"),
    ),
    "funcx-sdk": Spec(
        "funcx_sdk", "funcx, Globus Compute SDK", "`funcx up`; Client.batch_run and get_batch_result, unmodified", "ours",
        requirements=("globus-compute-sdk==4.19.0",), figures=("cold_start", "round_trip", "noop", "noop_large", "echo_1mib"),
    ),
    "funcx-http-map": Spec(
        "funcx_http", "funcx, HTTP, 100 calls a task", "as funcx-http, with chunk 100", "ours", variant="map",
        figures=("noop", "noop_large"),
    ),
    "funcx-cli-map": Spec(
        "funcx_cli", "funcx map", "`funcx map` with the chunk that it chooses itself", "ours", variant="map",
        figures=("noop", "noop_large"),
    ),
    "funcx-shell": Spec(
        "funcx_http", "funcx, shell commands", "as funcx-http, with shell functions", "ours", figures=SPAWN
    ),
    "parsl": Spec(
        "parsl_htex", "Parsl HTEX", "python_app with the DataFlowKernel, defaults", requirements=("parsl==2026.10.26",)
    ),
    "globus-compute": Spec(
        "globus_compute", "Globus Compute engine", "GlobusComputeEngine in process: no web service, no AMQP, defaults",
        requirements=("globus-compute-endpoint==4.19.0",),
    ),
    "dask": Spec("dask_distributed", "Dask distributed", "LocalCluster, client.map, defaults", requirements=_DASK),
    "dask-tuned": Spec(
        "dask_distributed", "Dask, tuned", "scheduler in a process of its own, worker-saturation inf", variant="tuned",
        requirements=_DASK, figures=("round_trip", "noop", "noop_large"),
    ),
    "ray": Spec("ray_core", "Ray", "remote functions, one node", requirements=("ray==2.60.0",)),
    "hyperqueue": Spec(
        "hyperqueue_local", "HyperQueue", "PyPI package: LocalCluster with two one-core workers; a process per task",
        requirements=("hyperqueue==0.27.0", "cloudpickle==3.1.2"), figures=("cold_start", *SPAWN),
    ),
    "executorlib": Spec(
        "executorlib_node", "executorlib", "SingleNodeExecutor, resident workers", requirements=_EXECUTORLIB
    ),
    "executorlib-nodeps": Spec(
        "executorlib_node", "executorlib, no dependencies", "the same with disable_dependencies", variant="nodeps",
        requirements=_EXECUTORLIB, figures=("round_trip", "noop", "noop_large", "echo_1mib"),
    ),
    "celery": Spec(
        "celery_redis", "Celery + Redis", "prefork pool of 2, late acknowledgement, Redis without persistence",
        requirements=_CELERY, program="redis-server",
    ),
    "process-pool": Spec(
        "process_pool", "ProcessPoolExecutor", "submit, one future per call; no persistence, no network", "floor"
    ),
    "process-pool-chunked": Spec(
        "process_pool", "ProcessPoolExecutor, chunks of 100", "map with chunksize=100", "floor", variant="chunked",
        figures=("noop", "noop_large"),
    ),
    "bare-loop": Spec(
        "bare_loop", "bare worker loop", "two Python loops over sockets: JSON in, call, JSON out; buffered", "floor",
        figures=("round_trip", "noop", "noop_large"),
    ),
}
