"""Threads of libraries: as many as the CPUs that this process may use."""

import os

import pyarrow as pa
from joblib import cpu_count
from threadpoolctl import threadpool_info, threadpool_limits

#: What TensorFlow, and XLA under JAX, read when they start.
VARIABLES = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NPROC")


def follow_cpus() -> None:
    """Keep libraries to the CPUs that a container's quota leaves; before Keras is imported.

    They know by themselves which CPUs the process may run on, but not how much of them: with 2 of a machine's 64 they
    would start 64 threads, and the system stops them all for most of the time.
    """
    n = cpu_count()
    for name in VARIABLES:
        os.environ.setdefault(name, str(n))
    pa.set_cpu_count(min(n, pa.cpu_count()))
    if any(pool["num_threads"] > n for pool in threadpool_info()):
        threadpool_limits(n)
