"""Scores shards on the workers of a running Dask cluster: checks the cluster first, then sends the work there.

Workers get paths, ids and options, never images or credentials: they read and write the workspace themselves.
"""

import asyncio
import contextlib
import logging
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from nelbo.data import File, list_source, look_into, open_place
from nelbo.flows.inference.progress import progress
from nelbo.flows.options.options import ScoreOptions
from nelbo.flows.options.sources import AnyOptions
from nelbo.flows.runner import Item, Result, Runner, title_of
from nelbo.flows.workspace import catalog
from nelbo.flows.workspace.errors import UsageError, store_errors, without_credentials
from nelbo.flows.workspace.journal import opened
from nelbo.flows.workspace.layout import Workspace

if TYPE_CHECKING:
    from distributed import Client, Future

#: Seconds that a scheduler has to answer.
_ANSWER_S = 10

#: Seconds without a finished task after which the workers are counted; the run fails if two counts in a row find none.
_LOOK_S = 30

#: Packages whose version must be the same here, on the scheduler and on the workers: scores or messages depend on them.
_PACKAGES = ["nelbo", "pandas", "pyarrow", "numpy", "prefect", "distributed"]

#: Engine -> packages for which the same holds; TensorFlow comes in one of two packages.
_OF_ENGINES = {
    "keras": ["keras", "tensorflow tensorflow-cpu"],
    "openvino": ["openvino"],
    "onnx": ["onnxruntime"],
    "int8": ["openvino"],
}

#: Files to try until one can be read here; the workers must be able to read that one, too.
_FIRST = 10

AsTask = Callable[[Callable[..., Any]], Any]


def carry_out(
    composition: Callable[[AnyOptions, Runner], dict[str, Any]],
    options: AnyOptions,
    here: Runner,
    as_task: AsTask | None = None,
) -> dict[str, Any]:
    """Finish what killed commands have left, then run a composition; mapped steps go to a Dask cluster that is named.

    Args:
        here: runs everything else.
        as_task: makes a Prefect task of a step, inside a flow; None maps plain functions.

    Raises:
        UsageError: the cluster cannot be reached, or cannot do this work.
    """
    workspace = opened(options.workspace)
    if not isinstance(options, ScoreOptions) or options.dask_address is None:
        return composition(options, here)
    address = options.dask_address
    # A missing model is reported before anything is written or the cluster is asked.
    catalog.find_model(workspace, options.model)
    # Make the path absolute, because workers have current folders of their own.
    options = options.model_copy(update={"workspace": str(workspace.root)})
    with _connect(address, in_flow=as_task is not None) as client:
        _check(client, options)
        return composition(options, cast(Runner, Cluster(client, here, as_task)))


class Cluster:
    """Runs single steps here, and mapped steps on the workers of a Dask cluster.

    A task whose worker dies runs again on another one: mapped steps may run twice.
    """

    def __init__(self, client: "Client", here: Runner, as_task: AsTask | None = None) -> None:
        self._client = client
        self._here = here
        self._as_task = as_task

    def __getattr__(self, name: str) -> Any:
        """Everything else that a runner does happens here."""
        return getattr(self._here, name)

    def map(self, step: Callable[[Item], Result], items: Sequence[Item], sizes: Sequence[int]) -> list[Result]:
        """Run one task for each item; the first failure is raised, and tasks that have not begun are cancelled."""
        import distributed
        from distributed.comm import CommClosedError

        task = step if self._as_task is None else self._as_task(step)
        gpus = any("GPU" in facts["resources"] for facts in _workers(self._client).values())
        resources = {"GPU": 1} if gpus else None
        futures: list[Future] = []
        try:
            futures += [self._client.submit(task, item, pure=False, resources=resources) for item in items]
            sizes_of = dict(zip(futures, sizes, strict=True))
            results = {}
            with progress(title_of(step), sum(sizes)) as advance:
                for future in self._finished(futures):
                    results[future] = future.result()
                    advance(sizes_of[future])
            return [results[future] for future in futures]
        except (distributed.CancelledError, CommClosedError) as error:
            raise RuntimeError(
                f"the Dask scheduler at {self._client.scheduler.address} was lost; finished shards are kept."
            ) from error
        except distributed.KilledWorker as error:
            raise RuntimeError(
                f"{error.allowed_failures + 1} workers died of the same task: perhaps for lack of memory. "
                "Give them more, or make shards smaller with --set shard_size=256."
            ) from error
        finally:
            if self._client.status == "running":
                self._client.cancel(futures)

    def _finished(self, futures: list["Future"]) -> Iterator["Future"]:
        """The futures as they finish; RuntimeError if no worker is left."""
        import distributed

        waiting, in_vain = set(futures), 0
        while waiting:
            try:
                with self._client.as_current():
                    done, waiting = distributed.wait(waiting, _LOOK_S, return_when="FIRST_COMPLETED")
            except TimeoutError:
                in_vain = 0 if _workers(self._client) else in_vain + 1
                if in_vain == 2:
                    raise RuntimeError(
                        f"all workers of the Dask scheduler at {self._client.scheduler.address} are gone. Start some."
                    ) from None
                continue
            yield from done


@contextlib.contextmanager
def _connect(address: str, in_flow: bool) -> Iterator["Client"]:
    try:
        import distributed
        from prefect_dask.client import PrefectDaskClient
    except ModuleNotFoundError as error:
        raise UsageError(
            f"runner=dask needs {error.name}, which is not installed. Get it with: pip install 'nelbo[cluster]'"
        ) from error
    # The errors raised here say what there is to say about a connection.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    # PrefectDaskClient can also send Prefect tasks, along with the flow run that they belong to.
    kind = PrefectDaskClient if in_flow else distributed.Client
    try:
        asyncio.run(_knock(address))
        with warnings.catch_warnings():
            # `_check` compares the versions.
            warnings.simplefilter("ignore", distributed.versions.VersionMismatchWarning)
            client = kind(address, timeout=_ANSWER_S, set_as_default=False)
    except (OSError, ValueError, TypeError, ImportError) as error:
        # The last two occur without certificates for tls://, and with a protocol of another version.
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(
            f"no Dask scheduler answers at {address} ({why}). "
            "Start one (dask scheduler), check the address, or score here with --runner local."
        ) from error
    with client:
        yield client


async def _knock(address: str) -> None:
    """Shake hands with a scheduler; the client itself would wait for ever at an open port that does not speak Dask."""
    from distributed import Security
    from distributed.comm import connect

    arguments = Security().get_connection_args("client")
    comm = await asyncio.wait_for(connect(address, timeout=_ANSWER_S, **arguments), _ANSWER_S)
    comm.abort()


def _check(client: "Client", options: ScoreOptions) -> None:
    """Check that the workers can do the work, before any of it is done.

    Raises:
        UsageError: there are no workers, versions differ, or a worker does not see the workspace or the images.
    """
    address = client.scheduler.address
    workers = _workers(client)
    if not workers:
        raise UsageError(f"the Dask scheduler at {address} has no workers. Start some: dask worker {address}")
    try:
        _compare(f"the Dask scheduler at {address}", client.run_on_scheduler(_versions, options.engine), options)
    except ImportError as error:
        raise _not_installed(f"the Dask scheduler at {address}", error) from error
    for worker, found in _ask(client, workers, _versions, options.engine):
        _compare(worker, found, options)
    probe = Workspace.at(options.workspace).prepare().staging / f".probe.{uuid.uuid4().hex}"
    probe.write_bytes(b"")
    try:
        for worker, found in _ask(client, workers, _sees, str(probe)):
            if found is not True:
                raise UsageError(
                    f"{worker} does not see the workspace {options.workspace}{found}. Put it where all machines see it "
                    "under the same name (--workspace): on a shared disk or in an object store."
                )
    finally:
        probe.unlink()
    for image in _some_image(options):
        for worker, found in _ask(client, workers, _reads, image):
            if not found:
                raise UsageError(
                    f"{worker} cannot read {image.path} of {image.root}. Put the images where all machines see them "
                    "under the same name: on a shared disk or in an object store."
                )


def _workers(client: "Client") -> dict[str, Any]:
    """The workers that do the work, by address: those with the resource GPU if there are any, otherwise all."""
    workers: dict[str, Any] = client.scheduler_info()["workers"]
    with_gpu = {address: facts for address, facts in workers.items() if "GPU" in facts["resources"]}
    return with_gpu or workers


def _ask(
    client: "Client", workers: Mapping[str, Any], question: Callable[..., Any], *args: Any
) -> Iterator[tuple[str, Any]]:
    """The name and the answer of each worker."""
    answers = client.run(question, *args, workers=list(workers), on_error="return")
    for address, answer in answers.items():
        name = f"the Dask worker at {address}"
        if isinstance(answer, OSError):
            raise answer
        if isinstance(answer, Exception):
            # The scheduler passes on a worker's failed import as text.
            raise _not_installed(name, answer) from answer
        yield name, answer


def _not_installed(where: str, error: Exception) -> UsageError:
    return UsageError(f"{where} cannot run nelbo ({error}). Install there what is installed here.")


def _compare(where: str, found: Mapping[str, str], options: ScoreOptions) -> None:
    for name, wanted in _versions(options.engine).items():
        if found[name] != wanted:
            raise UsageError(
                f"{where} has {name} {found[name]}, but here it is {wanted}. Install the same versions on all machines."
            )


def _versions(engine: str) -> dict[str, str]:
    needed = [one for name, some in _OF_ENGINES.items() if engine in (name, "auto") for one in some]
    packages = list(dict.fromkeys([*_PACKAGES, *needed]))
    found = {names.split()[0]: _version(names.split()) for names in packages}
    return {"python": f"{sys.version_info.major}.{sys.version_info.minor}", **found}


def _version(candidates: Sequence[str]) -> str:
    for candidate in candidates:
        with contextlib.suppress(PackageNotFoundError):
            return version(candidate)
    return "none"


def _sees(name: str) -> bool | str:
    """Whether a place exists, or why that is unknown."""
    try:
        return bool(open_place(name).exists()) or ""
    except ImportError as error:
        return f" ({error})"
    except store_errors() as error:
        return f" ({without_credentials(' '.join(str(error).split()))})"


def _some_image(options: ScoreOptions) -> Iterator[File]:
    """One of the first files to score that can be read here, if there is one."""
    listing = list_source(options.images, options.root)
    files = (File(listing.root, listed.entry.path) for listed in listing.entries if not listed.entry.skipped)
    return islice(filter(_reads, islice(files, _FIRST)), 1)


def _reads(file: File) -> bool:
    (look,) = look_into([file], workers=1)
    return look.image_id is not None
