"""The tutorial works as written, command by command."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pandas as pd
import pytest
from browser import chromium
from servers import Prefect, end, free_port, wait_for

PAGE = (Path(__file__).parent.parent / "docs" / "tutorial" / "index.md").read_text(encoding="utf-8")
#: Commands whose work is done before the test: an environment with nelbo installed.
INSTALLATION = "python3.11 -m venv .venv && . .venv/bin/activate\npip install -c constraints.txt -e '.[cpu]'"
BLOCKS = [(kind, text.strip()) for kind, text in re.findall(r"```(python|sh)\n(.*?)```", PAGE, re.DOTALL)]

pytestmark = pytest.mark.slow


class Newcomer:
    """A user at a terminal, in an empty folder and with an empty home folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.server = Prefect(folder / "prefect")
        self.server.prepare()
        self.environment = self.server.environment | {"HOME": str(folder)}
        # The tutorial sets this variable.
        del self.environment["PREFECT_API_URL"]

    def types(self, command: str) -> str:
        """Run a command to its end; what it prints."""
        command = self._with_free_ports(command)
        done = subprocess.run(
            ["/bin/bash", "-ec", command], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def terminal(self, command: str) -> Iterator[None]:
        """Run a command in a terminal of its own until it is stopped."""
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                ["/bin/bash", "-c", f"exec {self._with_free_ports(command)}"],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGINT)
            end(process)

    def _with_free_ports(self, command: str) -> str:
        command = command.replace("4200", str(self.server.port))
        command = re.sub(r"^prefect server start$", rf"\g<0> --port {self.server.port}", command)
        return re.sub(r"^nelbo dashboard$", rf"\g<0> --port {self.port}", command)


def answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=5).is_success
    except httpx.HTTPError:
        return False


def review(address: str) -> None:
    """Decide on all flagged images: plates 0 to 23 are scratched."""
    wait_for(lambda: answers(f"{address}/health"), "the dashboard")
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.goto(address)
        page.get_by_role("link", name="Review").first.click()
        page.get_by_label("Your name").fill("Ann")
        page.get_by_role("button", name="Begin").click()
        items = page.evaluate("JSON.parse(document.getElementById('queue').textContent)")
        for item in items:
            page.wait_for_function("id => document.getElementById('item').dataset.shown === id", arg=item["image"])
            page.keyboard.press("d" if int(Path(item["path"]).stem) < 24 else "g")
        page.wait_for_function("() => !/waiting for the server/.test(document.body.innerText)")


def test_the_tutorial_works_as_written(tmp_path: Path) -> None:
    newcomer = Newcomer(tmp_path)
    printed: dict[str, str] = {}
    assert BLOCKS[0] == ("sh", INSTALLATION)
    hourly = f"{newcomer.server.api}/deployments/name/score/plates-hourly"
    with ExitStack() as terminals:
        for kind, text in BLOCKS[1:]:
            if kind == "python":
                (tmp_path / "pictures.py").write_text(text, encoding="utf-8")
            elif text == "nelbo dashboard":
                with newcomer.terminal(text):
                    review(f"http://127.0.0.1:{newcomer.port}")
            elif text == "prefect server start":
                terminals.enter_context(newcomer.terminal(text))
                wait_for(lambda: answers(f"{newcomer.server.api}/health"), "the server", 300)
            elif text.startswith("nelbo serve "):
                terminals.enter_context(newcomer.terminal(text))
                wait_for(lambda: answers(hourly), "the deployment", 300)
            elif text.startswith("nelbo calibrate --use "):
                (first,) = re.findall(r"^(c\w{7}) .* conformal ", printed["nelbo calibrations"], re.MULTILINE)
                printed["back"] = newcomer.types(f"nelbo calibrate --use {first}")
            else:
                printed[text] = newcomer.types(text)

    assert "Nothing is missing." in printed["nelbo doctor"]
    assert "has learnt from 120 images" in printed["nelbo train --normal good"]
    assert re.match(r"\d+ of 200 images anomalous", printed["nelbo score new"])
    scores = pd.read_parquet(tmp_path / "workspace" / "scores")
    rows = scores.groupby("batch_id").filter(lambda batch: len(batch) == 200)
    scratched, flagged = rows["relative_path"] < "024", rows["verdict"] == "anomalous"
    assert (scratched & flagged).sum() >= 22
    # The rate is about one in twenty of 176 plates.
    assert (~scratched & flagged).sum() <= 20
    assert len(pd.read_csv(tmp_path / "verdicts.csv")) == len(rows) == 200
    reviews = pd.read_parquet(tmp_path / "workspace" / "reviews")
    assert (reviews["decision"] == "anomalous").sum() >= 20
    assert "promised: none" in printed["nelbo calibrate --labels reviews --objective precision --target 0.9"]
    assert "aimed at: 5 %" in printed["back"]
    assert re.search(r"^b\w{7,16} +m\w{7,16} +15 ", printed["nelbo batches"], re.MULTILINE)
