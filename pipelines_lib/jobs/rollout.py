"""A roll-out, watched: users' requests meet the candidate as `deployment.rollout` says, and what came of them decides. A part of the stage verify.

The servers count (`serving/rollout.py`); here their counts are added up and judged. A try that was killed is gone on with by the next: the pointer says
what is under way and until when, and the servers kept their counts.
"""

import logging
import math
import time
from typing import Any, NoReturn

from pydantic import ValidationError

from pipelines_lib.contracts import ModelRef
from pipelines_lib.errors import Held, SluiceError
from pipelines_lib.jobs.deploy import place_of_stage, refuse
from pipelines_lib.jobs.stage import Stage
from pipelines_lib.serving.place import Place
from pipelines_lib.serving.pointer import Deployment, Traffic, read_pointer, write_pointer
from pipelines_lib.serving.replica import Replica
from pipelines_lib.serving.rollout import Counts, Report
from pipelines_lib.use_case.serving import Rollout

log = logging.getLogger("sluice")

LOOK_SECONDS = 2.0
LOST_SECONDS = 15.0
"""How long no server may answer."""
FINAL = 0.01
"""Of versions that fail equally often, the share that is taken for worse at the end."""
EARLY = 1e-4
"""And at each look before. Simulated to the end, of 600 pairs that fail equally often (on none, 0.1 %, 1 % or 10 % of the requests) 4 at most are taken for worse; of those that
fail on 2 % where the champion does on 0.1 %, 99 % are found with 500 requests and a tenth's share."""
_NOTICEABLE = 1.0
"""Milliseconds by which an answer must take longer, besides being `slower` times as long."""
_FEW, _MANY = 20, 100
"""Answers below which nothing is said of how long they take: at the end, and before it, when their median alone is looked at."""


def roll_out(stage: Stage, model: ModelRef) -> dict[str, Any]:
    """Give the candidate its share of the users' requests until enough is known; returns the figures, none where no roll-out is asked for.

    Where no version serves there is nobody to compare with, and nothing is done. Raises `Held`, the candidate rolled back, where it fares worse than the
    champion, or met too few requests in time; and where another version was deployed meanwhile.
    """
    asked, current = stage.use_case.deployment.rollout, read_pointer(stage.root)
    if asked is None or current is None or current.model != model or current.state == "serving" or current.champion is None:
        return {}
    place = place_of_stage(stage)
    traffic = _begin(stage, asked, current, place)
    watch = _Watch(place, model, traffic)
    while True:
        _hold_if_ended(stage, model)
        report = watch.look()
        if (lost := watch.lost()) is not None:
            try:
                _refuse(stage, model, lost, report, traffic)
            finally:
                _put_up_again(place)
        enough = report.challenger.requests >= asked.requests
        if (why := problem(report, asked, final=enough)) is not None:
            _refuse(stage, model, why, report, traffic)
        if enough:
            return {"rollout": figures(report, traffic)}
        if time.time() > traffic.until:
            why = (
                f"its {asked.mode} met {report.challenger.requests} of {asked.requests} requests in time (deployment.rollout): ask for fewer, for a larger "
                "share, or for a longer timeout, then clear `deploy` and what follows it; the version stays registered"
            )
            _refuse(stage, model, why, report, traffic)
        time.sleep(LOOK_SECONDS)


def problem(report: Report, asked: Rollout, *, final: bool) -> str | None:
    """Why the challenger must not be promoted by what is known now; None where nothing speaks against it."""
    if report.error is not None:
        return f"the champion's servers can't open it: {report.error}"
    mine, champions = report.challenger, report.champion
    chance = chance_of(mine.errors, mine.requests, champions.errors, champions.requests)
    if chance < (FINAL if final else EARLY):
        last = f", at last with {report.last_failure}" if report.last_failure else ""
        return (
            f"it failed on {mine.errors} of {mine.requests} requests{last}, and the champion on {champions.errors} of {champions.requests}; "
            f"of two that fail equally often that comes about with a chance of {chance:.1g}"
        )
    if min(mine.requests - mine.errors, champions.requests - champions.errors) >= (_FEW if final else _MANY):
        for rank, name in ((0.5, "median"), (0.95, "95th percentile"))[: 2 if final else 1]:
            takes, took = mine.milliseconds(rank), champions.milliseconds(rank)
            if takes is not None and took is not None and takes > asked.slower * took and takes - took > _NOTICEABLE:
                return (
                    f"its answers take {takes:.3g} ms of a processor ({name}), the champion's {took:.3g}; "
                    f"{asked.slower:g} times as long is allowed (deployment.rollout.slower)"
                )
    return None


def chance_of(errors: int, n: int, other_errors: int, other_n: int) -> float:
    """The chance that of two which fail equally often the first has so many errors or more (Fisher's exact test, one-sided)."""
    total, all_errors = n + other_n, errors + other_errors

    def log_choose(a: int, b: int) -> float:
        return math.lgamma(a + 1) - math.lgamma(b + 1) - math.lgamma(a - b + 1)

    return min(
        1.0,
        sum(
            math.exp(log_choose(n, k) + log_choose(other_n, all_errors - k) - log_choose(total, all_errors))
            for k in range(errors, min(n, all_errors) + 1)
            if all_errors - k <= other_n
        ),
    )


def figures(report: Report, traffic: Traffic) -> dict[str, Any]:
    """What came of the roll-out."""
    told: dict[str, Any] = {"mode": report.mode, "share": report.share, "by_pods": traffic.pods}
    told |= {"champion": _figures(report.champion), "challenger": _figures(report.challenger)}
    if report.mode == "shadow":
        found = report.disagreement
        told |= {
            "rows_compared": found.rows,
            "other_predictions": round(found.other_predictions / found.rows, 6) if found.rows else None,
            "mean_score_difference": round(found.score_difference / found.rows, 6) if found.rows else None,
            "dropped": report.dropped,
        }
    return told


def _figures(counts: Counts) -> dict[str, Any]:
    times = {name: counts.milliseconds(rank) for name, rank in (("p50", 0.5), ("p95", 0.95))}
    told = {f"milliseconds_{name}": None if found is None else round(found, 3) for name, found in times.items()}
    return {"requests": counts.requests, "errors": counts.errors, **told}


def _begin(stage: Stage, asked: Rollout, current: Deployment, place: Place) -> Traffic:
    """Let requests meet the candidate; where they do already, they go on to do so until the time that was set then."""
    before = current.traffic
    if before is not None and (before.mode, before.share) == (asked.mode, asked.share) and time.time() < before.until:
        if before.pods:
            place.admit(before.share)  # putting the candidate up has taken it back
        return before
    pods = asked.mode == "canary" and place.admit(asked.share)
    traffic = Traffic(mode=asked.mode, share=asked.share, pods=pods, until=time.time() + asked.timeout.total_seconds())
    write_pointer(stage.root, current.meeting(traffic))
    log.info(
        "%s of version %d begins: a share of %g, until %d requests were met", asked.mode, current.model.version, asked.share, asked.requests
    )
    return traffic


def _hold_if_ended(stage: Stage, model: ModelRef) -> None:
    current = read_pointer(stage.root)
    if current is None or current.model != model or current.traffic is None:
        now = "nothing is deployed" if current is None else f"version {current.model.version} is deployed"
        raise Held(
            f"version {model.version} is not promoted: its roll-out was ended from elsewhere, and {now} now; clear `deploy` and what follows it to try again",
            {"model_version": model.version},
        )


def _refuse(stage: Stage, model: ModelRef, why: str, report: Report, traffic: Traffic) -> NoReturn:
    refuse(stage, model, why, {"rollout": figures(report, traffic)})


def _put_up_again(place: Place) -> None:
    """A process of the users' that the challenger took along is not started again by anybody else."""
    try:
        place.put_up(candidate=False)
    except SluiceError:
        log.exception("the users' servers could not be put up again; `sluice serve` does it")


class _Watch:
    """The servers of a roll-out and what each last said."""

    def __init__(self, place: Place, model: ModelRef, traffic: Traffic) -> None:
        self._place, self._model = place, model
        self._tracks = (False, True) if traffic.pods else (False,)
        self._said: dict[tuple[str, int], Report] = {}
        """What a server that is gone has counted, counts on."""
        self._empty = Report(version=model.version, mode=traffic.mode, share=traffic.share)
        self._heard = time.monotonic()
        self._began_again: Replica | None = None

    def look(self) -> Report:
        """All counts together."""
        heard = []
        for candidate in self._tracks:
            replicas, _ = self._place.replicas(candidate=candidate)
            found = [(replica, report) for replica in replicas if (report := self._ask(replica)) is not None]
            heard.append(bool(found))
            for replica, report in found:
                before = self._said.get((replica.host, replica.port), self._empty)
                if _total(report) < _total(before):
                    self._began_again = replica
                self._said[replica.host, replica.port] = report
        if all(heard):
            self._heard = time.monotonic()
        total = self._empty
        for report in self._said.values():
            total = total.plus(report)
        return total

    def lost(self) -> str | None:
        """Why the servers can't be trusted to go on; None where they can."""
        if self._began_again is not None:
            where = f"{self._began_again.host}:{self._began_again.port}"
            return f"the server {where} ended and began again while the version met users' requests; its log says why"
        patience = LOST_SECONDS if self._said else self._place.seconds
        if time.monotonic() - self._heard > patience:
            return f"no server told of the roll-out for {patience:.0f} s; the log of the users' servers says why"
        return None

    def _ask(self, replica: Replica) -> Report | None:
        """What the server has counted; None where it does not answer, or is not yet part of it."""
        try:
            status, answer = replica.ask(f"/v2/models/{self._model.name}", timeout=5)
            found = answer["parameters"]["rollout"] if status == 200 else None
            report = None if found is None else Report.model_validate(found)
        except (OSError, ValueError, ValidationError):
            return None
        return report if report is not None and report.version == self._model.version else None


def _total(report: Report) -> int:
    return report.champion.requests + report.challenger.requests
