"""A decoder that crashes, hangs or is killed loses one image, and no other."""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from servers import state, wait_for

from nelbo.data import (
    ImageError,
    Limits,
    Preprocessing,
    iter_images,
    look_into,
    read_image,
    read_images,
    read_thumbnail,
)
from nelbo.data.decoder import workers
from nelbo.data.decoder.decoding import CHUNK
from nelbo.data.sources.files import File, Stamp

GREY = Preprocessing(16, 16, 1)

#: The real decoder, but contents that begin with a certain word cause a fault, as a faulty library would.
FAULTY = """
import ctypes, os, runpy, sys
sys.path.insert(0, {root!r})
from nelbo.data.decoder import images

decode = images.Image.open
def faulty(opened, **options):
    word = opened.read(8)
    opened.seek(0)
    if word.startswith(b"crash"):
        ctypes.string_at(0)
    if word.startswith(b"hang"):
        # Sleep inside C, holding the interpreter's lock.
        ctypes.PyDLL(None).sleep(60)
    if word.startswith(b"exit"):
        os._exit(0)
    if word.startswith(b"chatter"):
        os.write(1, b"noise of a library")
    if word.startswith(b"memory"):
        bytearray(1 << 40)
    return decode(opened, **options)
images.Image.open = faulty
from nelbo.data.decoder import process
process.serve(0, process._confine())
"""


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Replace decoders by faulty ones for this test; the folder of its files."""
    workers.close_all()
    script = FAULTY.format(root=str(Path(workers.__file__).parents[3]))
    monkeypatch.setattr(workers, "COMMAND", (sys.executable, "-c", script))
    folder = tmp_path / "images"
    folder.mkdir()
    yield folder
    workers.close_all()


def pictures(folder: Path, number: int) -> list[Path]:
    files = [folder / f"{row}.png" for row in range(number)]
    for row, file in enumerate(files):
        Image.new("L", (20, 20), row).save(file)
    return files


def levels(files: list[Path], **options: int) -> tuple[list[int], list[str | None]]:
    images = read_images(files, GREY, **options)  # type: ignore[arg-type]
    return np.rint(images.pixels[:, 0, 0, 0] * 255).astype(int).tolist(), images.reasons


@pytest.mark.parametrize("size", [1, 7, 32, 1000])
def test_chunks_give_the_same_images(tmp_path: Path, size: int) -> None:
    files = [*pictures(tmp_path, 70), tmp_path / "none.png"]
    expected = read_images(files, GREY, workers=2)
    found = list(iter_images(iter(files), GREY, size, workers=2))
    assert [len(images.reasons) for images in found[:-1]] == [size] * (len(found) - 1)
    np.testing.assert_array_equal(np.concatenate([images.pixels for images in found]), expected.pixels)
    assert [reason for images in found for reason in images.reasons] == expected.reasons


def test_files_are_taken_as_they_are_needed_and_a_few_ahead(tmp_path: Path) -> None:
    (path,), taken = pictures(tmp_path, 1), list[int]()

    def endless() -> Iterator[Path]:
        for i in itertools.count(1):
            taken.append(i)
            yield path

    images = iter_images(endless(), GREY, 10, workers=2)
    for _ in range(20):
        assert next(images).reasons == [None] * 10
    # Two chunks ahead for each decoder, beyond the chunk in use.
    assert 200 < len(taken) <= 200 + 5 * CHUNK


@pytest.mark.parametrize("number", [1, 2])
def test_a_crash_loses_only_that_image(faulty: Path, number: int) -> None:
    files = pictures(faulty, 40)
    bad = {3: b"crash", 4: b"exit", 5: b"memory", 20: b"crash", 39: b"crash"}
    for row, content in bad.items():
        files[row].write_bytes(content)
    found, reasons = levels(files, workers=number)
    assert found == [row for row in range(40) if row not in bad]
    expected = {3: "unreadable", 4: "unreadable", 5: "too_large", 20: "unreadable", 39: "unreadable"}
    assert {row: reason for row, reason in enumerate(reasons) if reason} == expected


def test_a_hang_loses_only_that_image(faulty: Path) -> None:
    files = pictures(faulty, 6)
    files[2].write_bytes(b"hang")
    files[5].write_bytes(b"hang")
    images = read_images(files, GREY, limits=Limits(seconds=1), workers=1)
    assert images.reasons == [None, None, "timeout", None, None, "timeout"]
    np.testing.assert_allclose(images.pixels[:, 0, 0, 0] * 255, [0, 1, 3, 4], atol=1e-4)
    assert [look.reason for look in look_into(map(File.at, files), limits=Limits(seconds=1))] == images.reasons
    with pytest.raises(ImageError, match=r"2\.png: decoding took more than 1 seconds"):
        read_image(files[2], GREY, Limits(seconds=1))


def test_output_of_a_library_is_not_taken_for_an_answer(faulty: Path) -> None:
    files = pictures(faulty, 3)
    files[1].write_bytes(b"chatter")
    assert levels(files) == ([0, 2], [None, "not_an_image", None])


def test_a_worker_killed_between_images_is_replaced(tmp_path: Path) -> None:
    files = pictures(tmp_path, 10)
    workers.close_all()
    assert levels(files, workers=1)[1] == [None] * 10
    with workers.borrowed() as worker:
        killed = worker.pid
        os.kill(killed, signal.SIGKILL)
    assert levels(files, workers=1) == (list(range(10)), [None] * 10)
    with workers.borrowed() as worker:
        assert worker.pid != killed


def test_a_decoder_that_was_started_ahead_is_used_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workers.close_all()
    workers.start_ahead().join()
    with monkeypatch.context() as none:
        # Make sure that no other decoder can be started.
        none.setattr(workers, "COMMAND", (sys.executable, "-c", ""))
        assert levels(pictures(tmp_path, 2), workers=1) == ([0, 1], [None, None])
        workers.close_all()
        workers.start_ahead().join()
    assert levels(pictures(tmp_path, 2), workers=1) == ([0, 1], [None, None])


def test_decoders_are_given_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attacker who takes over a decoder finds only variables that Python needs, and no key or password."""
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "PREFECT_API_AUTH_STRING", "NELBO_DASHBOARD_PASSWORD", "ANY"):
        monkeypatch.setenv(name, "s3cr3t")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere/lib")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    workers.close_all()
    assert levels(pictures(tmp_path, 2), workers=1) == ([0, 1], [None, None])
    with workers.borrowed() as worker:
        found = dict(pair.split("=", 1) for pair in Path(f"/proc/{worker.pid}/environ").read_text().split("\0") if pair)
    assert "s3cr3t" not in "".join(found.values())
    assert found["LD_LIBRARY_PATH"] == "/nowhere/lib"
    assert found["LC_ALL"] == "C.UTF-8"
    assert set(found) <= {*workers._INHERITED, *workers._KEEP, "OPENBLAS_NUM_THREADS"}


def test_repeatedly_killed_workers_lose_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each worker is killed while it decodes an image, after it has answered another."""
    files, answer, answers = pictures(tmp_path, 200), workers.Worker._answer, itertools.count(1)
    killed: list[int] = []

    def answer_and_be_killed(worker: workers.Worker) -> workers.Answer:
        found = answer(worker)
        if next(answers) % 20 == 0:
            killed.append(worker.pid)
            os.kill(worker.pid, signal.SIGKILL)
        return found

    monkeypatch.setattr(workers.Worker, "_answer", answer_and_be_killed)
    assert levels(files, workers=2) == (list(range(200)), [None] * 200)
    assert len(set(killed)) >= 10


def test_threads_share_the_pool(tmp_path: Path) -> None:
    files = pictures(tmp_path, 50)
    found: dict[int, tuple[list[int], list[str | None]]] = {}

    def work(number: int) -> None:
        found[number] = levels(files[number:], workers=2)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: (list(range(number, 50)), [None] * (50 - number)) for number in range(4)}


def test_a_fork_has_workers_of_its_own(tmp_path: Path) -> None:
    """Both processes continue, and the parent's workers end with the parent even if the child lives."""
    script = f"""
import os, sys
from pathlib import Path
from nelbo.data import Preprocessing, read_images
from nelbo.data.decoder import workers
files = sorted(Path({str(tmp_path)!r}).glob("*.png"))
def pids():
    assert read_images(files, Preprocessing(16, 16), workers=1).reasons == [None] * 5
    return {{worker.pid for worker in workers._open}}
mine = pids()
child = os.fork()
if child == 0:
    theirs = pids()
    assert not mine & theirs, (mine, theirs)
    workers.close_all()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert pids() == mine
print("sound")
"""
    pictures(tmp_path, 5)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("sound\n", "")


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    script = f"""
import json, time
from pathlib import Path
from nelbo.data import Preprocessing, read_images
from nelbo.data.decoder import workers
read_images(sorted(Path({str(tmp_path)!r}).glob("*.png")), Preprocessing(16, 16), workers=2)
print(json.dumps([worker.pid for worker in workers._open]), flush=True)
time.sleep(60)
"""
    pictures(tmp_path, 40)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pids = json.loads(parent.stdout.readline())
        parent.kill()
    assert pids
    # A zombie has ended, too; its parent has not waited for it yet.
    wait_for(lambda: not {state(pid) for pid in pids} - {"", "Z"}, "decoders to end")


def test_a_decoder_that_is_killed_while_it_starts_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers.close_all()
    mark = tmp_path / "started"
    once = f"import os, sys; os.path.exists({str(mark)!r}) or (open({str(mark)!r}, 'x'), os.kill(os.getpid(), 9))"
    command = f"{once}; os.execv(sys.executable, {list(workers.COMMAND)!r})"
    monkeypatch.setattr(workers, "COMMAND", (sys.executable, "-W", "ignore", "-c", command))
    assert levels(pictures(tmp_path, 3), workers=1) == ([0, 1, 2], [None] * 3)
    assert mark.exists()
    workers.close_all()


def test_a_decoder_that_cannot_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workers.close_all()
    monkeypatch.setattr(workers, "COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(RuntimeError, match=r"the decoder does not start: .* ended with status 3"):
        read_images(pictures(tmp_path, 1), GREY)
    assert not workers._open


def test_decoders_load_no_more_than_decoding_needs() -> None:
    script = Path(workers.__file__).with_name("process.py").read_text().replace("serve(0, _confine())", "")
    code = f"{script}\nimport nelbo.data.decoder.preprocessing\nprint(*sys.modules)"
    names = {"__file__": str(Path(workers.__file__).with_name("process.py")), "__name__": "__main__"}
    loaded = subprocess.run(
        [sys.executable, "-c", f"exec({code!r}, {names!r})"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "nelbo.data.decoder.images" in loaded
    assert not {"pandas", "pyarrow", "nelbo.data.store", "scipy"} & set(loaded)


def test_a_changed_file_waits(tmp_path: Path) -> None:
    files = pictures(tmp_path, 3)
    listed = [File(str(tmp_path), file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]
    assert read_images(listed, GREY).reasons == [None] * 3
    files[1].write_bytes(files[2].read_bytes())
    images = read_images(listed, GREY)
    assert images.reasons == [None, "changed", None]
    assert len(images.pixels) == 2


def test_a_look_describes_the_file(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((7, 9), np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "page.html").write_text("<html>")
    names = ("deep.png", "page.html", "missing")
    deep, page, missing = look_into(File(str(tmp_path), name) for name in names)
    assert deep.image_id == hashlib.sha256((tmp_path / "deep.png").read_bytes()).hexdigest()
    assert deep.modified_ns == (tmp_path / "deep.png").stat().st_mtime_ns
    assert deep[6:] == ("PNG", "I;16", 9, 7, None)
    assert page[1:] == (*Stamp.of((tmp_path / "page.html").stat()), None, None, None, None, "not_an_image")
    assert page.size_bytes == 6
    assert missing == (None,) * 10 + ("unreadable",)
    (large,) = look_into([File(str(tmp_path), "deep.png")], limits=Limits(size_bytes=5))
    assert (large.image_id, large.reason) == (None, "too_large")


def test_looks_take_files_as_they_are_needed(tmp_path: Path) -> None:
    pictures(tmp_path, 1)
    taken = itertools.count()

    def endless() -> Iterator[File]:
        while True:
            next(taken)
            yield File(str(tmp_path), "0.png")

    looks = look_into(endless(), workers=2)
    for _ in range(100):
        assert next(looks).reason is None
    looks.close()  # type: ignore[attr-defined]
    assert next(taken) <= 100 + 5 * 16


def test_thumbnails_are_upright_and_small(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (300, 100), (255, 0, 0)).save(tmp_path / "x.jpg", exif=exif)
    (tmp_path / "thumbnail.jpg").write_bytes(read_thumbnail(tmp_path / "x.jpg", 60))
    with Image.open(tmp_path / "thumbnail.jpg") as picture:
        assert picture.size == (20, 60)
        assert picture.getpixel((10, 30))[0] > 250  # type: ignore[index]
    with pytest.raises(ImageError, match="none"):
        read_thumbnail(tmp_path / "none.jpg", 60)
