"""Limits the threads of libraries to the CPUs that this process may use."""

import os

import pyarrow as pa
from joblib import cpu_count
from threadpoolctl import threadpool_info, threadpool_limits

#: Environment variables that TensorFlow, and XLA under JAX, read when they start.
VARIABLES = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NPROC")


def follow_cpus() -> None:
    """Keep libraries to the CPUs that a container's quota leaves. Call this before Keras is imported.

    Libraries see which CPUs the process may run on, but not the quota: with 2 of a machine's 64 CPUs they would start
    64 threads, which the system would throttle most of the time.
    """
    n = cpu_count()
    for name in VARIABLES:
        os.environ.setdefault(name, str(n))
    pa.set_cpu_count(min(n, pa.cpu_count()))
    if any(pool["num_threads"] > n for pool in threadpool_info()):
        threadpool_limits(n)
