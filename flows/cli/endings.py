"""The last lines that a command prints for people: what happened, what it means, and a command to go on with."""

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from nelbo.flows.cli.output import printable
from nelbo.flows.dashboard.server import lacking
from nelbo.flows.options.options import Options
from nelbo.flows.workspace import catalog, pointers
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.ids import shortened
from nelbo.flows.workspace.layout import Workspace

#: Commands whose result is a list, which is printed for people.
_LISTS = ("models", "calibrations", "batches", "doctor", "evaluate", "prune", "upgrade", "serve", "deploy")

#: Placeholder for images that only the reader can name.
_IMAGES = "DIR"


class Ending(NamedTuple):
    """The last three lines of a command."""

    happened: str
    means: str
    command: str


@dataclass(frozen=True)
class Told:
    """The options and the result of a command, for sentences about them."""

    result: Mapping[str, Any]
    options: Any

    @cached_property
    def workspace(self) -> Workspace:
        """The workspace of the command."""
        return Workspace.at(self.options.workspace)

    @cached_property
    def _known(self) -> list[str]:
        return catalog.ids(self.workspace)

    def short(self, name: str) -> str:
        """The short form of an id, which people are shown and every command takes."""
        return shortened(name, self._known)

    def line(self, *words: str) -> str:
        """A command on the same workspace, quoted for a shell."""
        elsewhere = self.options.workspace != Options.model_fields["workspace"].default
        words = ("nelbo", *words, *(("--workspace", self.options.workspace) if elsewhere else ()))
        return " ".join(map(quoted, words))

    @property
    def model(self) -> str:
        """The short id of the result's model."""
        return self.short(self.result["model_id"])


def ending(command: str, result: Mapping[str, Any], options: Any) -> Ending:
    """The last lines of a command: sentences that are safe on a terminal, and a line that a shell takes as it stands.

    Args:
        result: what the command returns.
        options: the options that it was given.
    """
    happened, means, line = _ENDINGS[_compared(command, result)](Told(result, options))
    return Ending(_sentence(happened), _sentence(means), line)


def beginning(result: Mapping[str, Any], options: Any) -> str:
    """What a command that watches a folder says first."""
    told = Told(result, options)
    by = f"model {told.model} ({result['engine']})"
    by += (
        f" and calibration {told.short(result['calibration_id'])}" if result["calibration_id"] else ", without verdicts"
    )
    return _sentence(f"Watching {result['watching']} with {by}; Ctrl-C ends it")


def listed(command: str, result: Mapping[str, Any], options: Any) -> dict[str, Any]:
    """What is always printed before the last lines: the result of commands that list, or counts of several batches."""
    if command in _LISTS or _compared(command, result) == "compare":
        return dict(result)
    if command == "score" and len(result.get("batches", ())) > 1:
        scored = catalog.batches(Workspace.at(options.workspace)).to_pylist()
        return {"batches": [row for row in scored if row["batch_id"] in result["batches"]]}
    return {}


def with_short_ids(value: Any, options: Any) -> Any:
    """The value, with ids in their short form."""
    return _shortened(value, Told({}, options).short)


def _shortened(value: Any, short: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {name: _shortened(inner, short) for name, inner in value.items()}
    if isinstance(value, list):
        return [_shortened(inner, short) for inner in value]
    return short(value) if isinstance(value, str) else value


def quoted(word: str) -> str:
    r"""A word quoted for a shell; characters that a terminal might obey are escaped as bash and zsh read them.

    >>> print(quoted("new parts/"), quoted("a\x1b[2Jé\u202e'"), quoted("-x"))
    'new parts/' $'a\x1b[2Jé\xe2\x80\xae\x27' -x
    """
    if word.isprintable():
        return shlex.quote(word)
    return f"$'{''.join(map(_escaped, word))}'"


def _escaped(character: str) -> str:
    if character.isprintable() and character not in "'\\":
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def _sentence(text: str) -> str:
    text = printable(" ".join(text.split()))
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _compared(command: str, result: Mapping[str, Any]) -> str:
    return "compare" if command == "calibrate" and "calibrations" in result else command


def _n(count: int, thing: str, things: str | None = None) -> str:
    return f"{count:,} {thing if count == 1 else things or f'{thing}s'}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _place(path: str) -> str:
    """A path as an argument, with ./ in front if it would look like an option."""
    return f"./{path}" if path.startswith("-") else path


def _ingest(told: Told) -> Ending:
    found, images = told.result, _place(told.options.images)
    happened = f"{_n(found['n_images'], 'file')} listed as batch {told.short(found['batch_id'])}"
    if found["n_unusable"]:
        happened += f", {found['n_unusable']:,} of them unusable"
    if found["n_folders_unlisted"]:
        happened += f"; {_n(found['n_folders_unlisted'], 'folder')} could not be listed"
    said = [finding["sentence"] for finding in found["data"]]
    more = f" ({len(said) - 1} more with --verbose)" if len(said) > 1 else ""
    means = f"{said[0].rstrip('.')}{more}" if said else "Nothing about the files stands out"
    root = ("--root", told.options.root) if told.options.root else ()
    if pointers.promoted(told.workspace) is None:
        return Ending(happened, means, told.line("train", "--normal", images, *root))
    return Ending(happened, means, told.line("score", images, *root))


def _train(told: Told) -> Ending:
    found = told.result
    happened = f"Model {told.model} has learnt from {_n(found['n_train'] + found['n_validation'], 'image')}"
    if found.get("tried"):
        kept = next(one["name"] for one in found["tried"] if one["kept"])
        happened += f", {kept} of {_n(len(found['tried']), 'candidate')}"
    if (found.get("precision") or {}).get("precision") == "int8":
        happened += ", has a second fit in int8"
    failed = (found.get("gate") or {}).get("failed")
    if found["promoted"]:
        happened += ", and is the latest"
    elif failed:
        happened += f", and is not promoted: {failed[0]}"
    else:
        happened += ", and is not promoted"
    more = () if found["calibration_id"] else ("--uncalibrated",)
    line = told.line("score", _new_images(told.options), "--model", told.model, *more)
    return Ending(happened, f"{_promised(found)}{_seen(found['sensitivity'])}", line)


def _promised(found: Mapping[str, Any]) -> str:
    if not found["calibration_id"]:
        return "It is not calibrated, for want of images: it gives scores and no verdicts"
    return str(found["promise"])


def _seen(sensitivity: Mapping[str, Any] | None) -> str:
    if sensitivity is None:
        return ""
    if sensitivity["blind"]:
        return "; but it cannot see simulated defects: what it does not flag may be defective"
    if sensitivity["found"] is None:
        return f"; it tells simulated defects from normal images (AUROC {sensitivity['auroc']:.2f})"
    return f"; it finds {_percent(sensitivity['found'])} of simulated defects"


def _new_images(options: Any) -> str:
    """A folder ``new`` beside the normal images, if there is one; else a placeholder."""
    beside = Path(getattr(options, "normal", None) or ".").parent / "new"
    return _place(str(beside)) if beside.is_dir() else _IMAGES


def _calibrate(told: Told) -> Ending:
    found = told.result
    calibration = told.short(found["calibration_id"])
    # Only a calibration from reviews has a caution.
    means = "; ".join(found[name] for name in ("promise", "caution") if name in found)
    if found["candidate"]:
        happened = f"Calibration {calibration} of model {told.model} is a candidate and not in use: {found['why_not']}"
        return Ending(happened, means, told.line("calibrations", "--model", told.model))
    happened = f"Model {told.model} now has calibration {calibration}, of {_n(found['n_calibration'], 'image')}"
    scored = catalog.find(told.workspace, "scores", model_id=found["model_id"]).num_rows
    line = ("calibrate", "--compare") if scored else ("calibrations",)
    return Ending(happened, means, told.line(*line, "--model", told.model))


def _compare(told: Told) -> Ending:
    found, batch = told.result, told.short(told.result["batch_id"])
    happened = (
        f"{_n(len(found['calibrations']), 'calibration')} of model {told.model} compared on "
        f"{_n(found['n_scored'], 'image')} of batch {batch}"
    )
    counts = {one["calibration_id"]: one["n_anomalous"] for one in found["calibrations"]}
    current = next((one["calibration_id"] for one in found["calibrations"] if one["current"]), None)
    means = f"They call {min(counts.values()):,} to {max(counts.values()):,} images anomalous"
    if current is not None:
        means += f"; the one in use, {told.short(current)}, calls {counts[current]:,}"
    return Ending(happened, means, told.line("report", "--batch", batch, "--model", told.model))


def _score(told: Told) -> Ending:
    found = told.result
    if "skipped" in found:
        means = f"{_n(found['n_waiting'], 'file waits', 'files wait')}: changed a moment ago, or just being written"
        nothing = "Every file there has been scored before"
        return Ending(found["skipped"], means if found["n_waiting"] else nothing, told.line("batches"))
    batch, flagged = told.short(found["batch_id"]), found["n_anomalous"] + found["n_review"]
    if found["calibration_id"]:
        happened = f"{found['n_anomalous']:,} of {_n(found['n_scored'], 'image')} anomalous"
        happened += f", {found['n_review']:,} for review" if found["n_review"] else ""
    else:
        happened = f"{_n(found['n_scored'], 'image')} scored, without verdicts"
    if found["n_not_scored"]:
        happened += f", {_n(found['n_not_scored'], 'file')} not scored"
    happened += f" (batch {batch}, model {told.model}); page {found['report']}"
    happened += f", rows {told.options.csv}" if told.options.csv else ""
    if len(found.get("batches", ())) > 1:
        happened = (
            f"{_n(found['n_anomalous_in_batches'], 'anomalous image')} in {len(found['batches'])} batches; "
            f"in the last one, {happened}"
        )
    line = ("dashboard",) if flagged and _has_dashboard() else ("report", "--batch", batch, "--model", told.model)
    return Ending(happened, _meaning(told), told.line(*line))


def _watch(told: Told) -> Ending:
    found = told.result
    flagged = found["n_anomalous"] + found["n_review"]
    if not found["batches"]:
        return Ending("Nothing new landed", "What lands from now on waits for the next command", told.line("batches"))
    happened = f"{_n(found['n_images'], 'file')} of {found['watched']} scored and published"
    happened += f" in {_n(len(found['batches']), 'batch', 'batches')}: {found['n_anomalous']:,} anomalous"
    happened += f", {found['n_review']:,} for review" if found["n_review"] else ""
    happened += f", {found['n_not_scored']:,} not scored" if found["n_not_scored"] else ""
    batch = told.short(found["batches"][-1])
    line = ("dashboard",) if flagged and _has_dashboard() else ("report", "--batch", batch, "--model", told.model)
    page = f"; the page of the last batch is {found['report']}" if found["report"] else ", which writes the last page"
    means = f"What lands from now on waits for the next command{page}"
    return Ending(happened, means, told.line(*line))


def _meaning(told: Told) -> str:
    """What casts doubt on the verdicts of a scored batch, or else whether they are more than chance."""
    from nelbo.flows.evaluation.differences import warning
    from nelbo.flows.report.headline import chance
    from nelbo.flows.workspace.calibrations.calibration import read_calibration

    found = told.result
    if not found["n_scored"]:
        return "No image could be scored; the page says why, file by file"
    if not found["calibration_id"]:
        return "The model was not asked for verdicts, or has no calibration: the higher a score, the stranger the image"
    if differs := warning(found["differs"]):
        return differs
    if "cannot_see" in found:
        return str(found["cannot_see"])
    counts = {"scored": found["n_scored"], "anomalous": found["n_anomalous"]}
    try:
        threshold = read_calibration(told.workspace, found["calibration_id"]).threshold
    except UsageError:
        # The calibration was removed since; the verdicts stand.
        return str(found["promise"])
    return chance(counts, threshold, defects=_has_defects(told)) or str(found["promise"])


def _has_defects(told: Told) -> bool:
    """Whether labels or reviews show defects in a scored batch."""
    from nelbo.data import MissingError, read_table
    from nelbo.flows.report.headline import KNOWN_BY, known_of
    from nelbo.flows.workspace.reviews import labels_of, latest_reviews

    try:
        scores = read_table(told.workspace.scores(told.result["model_id"], told.result["batch_id"]), KNOWN_BY)
    except MissingError:
        # The scores were removed since.
        return False
    return known_of(scores, labels_of(latest_reviews(told.workspace))).defects


def _has_dashboard() -> bool:
    return not lacking()


def _export(told: Told) -> Ending:
    found = told.result
    speeds = found["images_per_s"]
    happened = f"Model {told.model} is ready for {found['engine']}"
    if speeds.get("keras") and found["engine"] in speeds:
        happened += f": {speeds[found['engine']]:,} images/s here, {speeds['keras']:,} with keras"
    n = found["n_images"] + found["n_painted"]
    means = f"On {_n(n, 'image')} its scores are the same to {found['difference']:.0e} of their scale"
    if found["calibration_id"]:
        means += f", and {_n(found['n_verdicts_changed'], 'verdict changes', 'verdicts change')}"
    line = told.line("score", _new_images(told.options), "--model", told.model, "--engine", found["engine"])
    return Ending(happened, means, line)


def _sensitivity(told: Told) -> Ending:
    found = told.result
    share = "" if found["found"] is None else f" finds {_percent(found['found'])} of them"
    happened = (
        f"Defects were painted on {_n(found['n_images'], 'normal image')}: model {told.model}"
        f"{share or ' has no threshold to find them by'} (AUROC {found['auroc']:.2f})"
    )
    blind = "It finds even the most telling ones no better than chance: what it does not flag may be defective"
    means = blind if found["blind"] else "The model sees simulated defects better than chance"
    return Ending(happened, means, told.line("sensitivity", "--model", told.model, "--verbose"))


def _report(told: Told) -> Ending:
    found = told.result
    happened = f"The page of batch {told.short(found['batch_id'])} by model {told.model} is {found['report']}"
    means = "It is one file, which needs no network"
    metrics = found.get("metrics")
    if metrics and metrics["detected"] is not None:
        means = (
            f"Of {_n(metrics['n_anomalous'], 'image')} labelled anomalous {metrics['detected']:,} are called so, and "
            f"{metrics['false_alarms']:,} of {metrics['n_normal']:,} normal ones"
        )
    line = ("dashboard",) if _has_dashboard() else ("batches",)
    return Ending(happened, means, told.line(*line))


def _evaluate(told: Told) -> Ending:
    from nelbo.flows.evaluation.by_kind import MEASURES

    found = told.result
    whole = {row["measure"]: row for row in found["measures"] if row["kind"] is None and row["area_from_px"] is None}
    happened = (
        f"Batch {told.short(found['batch_id'])} by model {told.model} was judged on {found['n_anomalous']:,} "
        f"defective and {_n(found['n_normal'], 'normal image')}, according to {found['labels_from']}"
    )
    said = [f"{MEASURES[name][0]} {_share(whole[name])}" for name in ("auroc", "recall", "aupro_30") if name in whole]
    shares = [row for row in found["measures"] if row["measure"] == "recall" and row["kind"] is not None]
    least = min(shares, key=lambda row: row["value"], default=None)
    if least is not None and least["value"] < max(row["value"] for row in shares):
        said.append(f"the kind of defect that is found least is {least['kind']}, {_share(least)}")
    means = "; ".join(said) or "The images are all normal or all defective: only shares of them are known"
    return Ending(happened, means, told.line("report", "--batch", told.short(found["batch_id"]), "--model", told.model))


def _masks(told: Told) -> Ending:
    found, batch = told.result, told.short(told.result["batch_id"])
    where = {"png": "masks", "coco": "coco.json", "csv": "regions.csv"}[found["format"]]
    happened = (
        f"{_n(found['n_regions'], 'region')} of {_n(found['n_flagged'], 'flagged image')} of batch {batch}, as {where} "
        f"in {found['masks']}"
    )
    means = "Each is where the map exceeds a level that normal images rarely reach anywhere"
    if found["n_without_region"]:
        means = f"{_n(found['n_without_region'], 'of them has', 'of them have')} none: no place alone is unusual enough"
    return Ending(happened, means, told.line("report", "--batch", batch))


def _share(row: Mapping[str, Any]) -> str:
    return f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _prune(told: Told) -> Ending:
    found = told.result
    done = "deleted" if found["applied"] else "to delete"
    happened = f"{_n(found['n'], 'item')} {done}, {found['size_bytes'] / 1e6:,.1f} MB"
    if found["applied"] or not found["n"]:
        return Ending(happened, f"What is younger than {found['older_than']}, or in use, stays", told.line("batches"))
    more = ("--models",) if told.options.models else ()
    line = told.line("prune", "--older-than", found["older_than"], *more, "--apply")
    return Ending(happened, "Nothing is deleted yet", line)


def _compact(told: Told) -> Ending:
    found = told.result
    happened = f"{_n(found['n_rows'], 'row')} of {_n(found['n_files'], 'file')} joined"
    means = "No row is lost" if found["n_files"] else "There was nothing to join"
    return Ending(happened, means, told.line("batches"))


def _upgrade(told: Told) -> Ending:
    found, by_hand = told.result, told.result["by_hand"]
    happened = f"{_n(found['n'], 'change')} {'made' if found['applied'] else 'to make'}"
    happened += f"; {_n(len(by_hand), 'thing is', 'things are')} left to do by hand" if by_hand else ""
    if found["applied"] or not found["n"]:
        means = f"First, {by_hand[0]}" if by_hand else "Nothing of an older version is left to bring up to date"
        return Ending(happened, means, told.line("batches"))
    config = ("--config", told.options.config) if told.options.config else ()
    return Ending(happened, "Nothing is changed yet", told.line("upgrade", *config, "--apply"))


def _models(told: Told) -> Ending:
    rows = told.result["models"]
    if not rows:
        line = told.line("train", "--normal", _IMAGES)
        return Ending(f"No model in workspace {told.workspace.root}", "One is made from normal images", line)
    latest = next((told.short(row["model_id"]) for row in rows if row["latest"]), None)
    means = f"Commands use {latest} where no other is named" if latest else "None is the latest: name one with --model"
    line = told.line("calibrations", "--model", latest or told.short(rows[-1]["model_id"]))
    return Ending(f"{_n(len(rows), 'model')} in workspace {told.workspace.root}", means, line)


def _batches(told: Told) -> Ending:
    rows = told.result["batches"]
    if not rows:
        return Ending(
            f"No scored batch in workspace {told.workspace.root}", "Batches are made by scoring", _next_of_none(told)
        )
    last, model_ids = rows[-1], {row["model_id"] for row in rows}
    batch, model = told.short(last["batch_id"]), told.short(last["model_id"])
    happened = f"{_n(len(rows), 'batch', 'batches')} scored by {_n(len(model_ids), 'model')}"
    means = f"In the last one, {batch}, {last['n_anomalous']:,} of {_n(last['n_images'], 'file')} are anomalous"
    return Ending(happened, means, told.line("report", "--batch", batch, "--model", model))


def _next_of_none(told: Told) -> str:
    """The command that leads to a first batch."""
    if pointers.promoted(told.workspace) is None:
        return told.line("train", "--normal", _IMAGES)
    return told.line("score", _IMAGES)


def _calibrations(told: Told) -> Ending:
    rows = told.result["calibrations"]
    model = told.short(catalog.find_model(told.workspace, told.options.model))
    happened = f"{_n(len(rows), 'calibration')} of model {model}"
    current = [row for row in rows if row["current"]]
    if not current:
        means = "None is in use: scores get no verdicts" if rows else "Without one, scores get no verdicts"
        return Ending(happened, means, told.line("calibrate", "--normal", _IMAGES, "--model", model))
    # Each of several fits has its own calibration.
    fits = [f" of {row['precision']}" if len(current) > 1 else "" for row in current]
    used = [
        f"{told.short(row['calibration_id'])}{fit}: {row['promise']}" for row, fit in zip(current, fits, strict=True)
    ]
    return Ending(happened, f"In use: {'; and '.join(used)}", told.line("verify", "--model", model))


def _verify(told: Told) -> Ending:
    found = told.result
    happened = (
        f"Model {told.model}, {_n(len(found['engines']), 'engine')} and "
        f"{_n(len(found['calibrations']), 'calibration')} are intact"
    )
    means = "Each file is what was written, and each id the hash of its contents"
    return Ending(happened, means, told.line("calibrations", "--model", told.model))


def _doctor(told: Told) -> Ending:
    found = told.result
    happened = f"This system {'runs' if found['ok'] else 'does not run'} nelbo {found['nelbo']}"
    missing = found["missing"]
    means = f"{_n(len(missing), 'thing')} missing, first {missing[0]}" if missing else "Nothing is missing"
    line = _next_of_none(told) if found["ok"] else told.line("doctor")
    return Ending(happened, means, line)


def _deployments(told: Told) -> Ending:
    rows, pool = told.result["deployments"], getattr(told.options, "pool", None)
    served = "served from this process until Ctrl-C" if pool is None else f"registered in the work pool {pool}"
    means = (
        "Each runs on its schedule" if pool is None else "They run on their schedules once a worker of the pool runs"
    )
    return Ending(f"{_n(len(rows), 'deployment')} {served}", means, told.line("batches"))


def _demo(told: Told) -> Ending:
    scored = told.result["score"]
    metrics = scored["metrics"]
    rate, area = metrics["realised_fpr"], metrics["auroc"]
    happened = (
        f"{_n(scored['n_anomalous'], 'image')} of {scored['n_images']:,} called anomalous; {metrics['detected']:,} of "
        f"{metrics['n_anomalous']:,} defective cells found, AUROC {area['value']:.3f}; page {scored['report']}"
    )
    means = (
        f"{told.result['train']['promise']}; realised {rate['value']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}] "
        f"of {metrics['n_normal']} normal cells"
    )
    batch, model = told.short(scored["batch_id"]), told.short(scored["model_id"])
    line = ("dashboard",) if _has_dashboard() else ("report", "--batch", batch, "--model", model)
    return Ending(happened, means, told.line(*line))


_ENDINGS: dict[str, Callable[[Told], Ending]] = {
    "ingest": _ingest,
    "train": _train,
    "calibrate": _calibrate,
    "compare": _compare,
    "score": _score,
    "watch": _watch,
    "export": _export,
    "sensitivity": _sensitivity,
    "report": _report,
    "evaluate": _evaluate,
    "masks": _masks,
    "prune": _prune,
    "compact": _compact,
    "upgrade": _upgrade,
    "models": _models,
    "batches": _batches,
    "calibrations": _calibrations,
    "verify": _verify,
    "doctor": _doctor,
    "serve": _deployments,
    "deploy": _deployments,
    "demo": _demo,
}
