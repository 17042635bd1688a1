"""Where the champion serves: `deployment:`."""

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from pipelines_lib.use_case.base import ConnectionName, Duration, Positive, Settings


class Token(Settings):
    """A secret that requests must carry."""

    connection: ConnectionName
    """Its password is the token."""


class Recommend(Settings):
    """What the service recommends: the items of the training rows."""

    item: str
    """The column that names an item."""
    columns: list[str] = Field(default_factory=list)
    """The features that say what an item is, the same whoever asks; those of `training.model.item` when absent."""


class Approval(Settings):
    """A person's yes before a version is deployed."""

    timeout: Duration = timedelta(days=3)
    """How long the question waits in the Airflow UI. No answer is a no."""
    by: list[Annotated[str, Field(min_length=1, coerce_numbers_to_str=True)]] | None = None
    """The ids of the users who may answer, as Airflow's auth manager knows them; whoever may answer such questions there when absent."""

    @model_validator(mode="after")
    def _somebody_may_answer(self) -> Self:
        if self.by is not None and not self.by:
            raise ValueError("`by` names nobody, so nobody could say yes; name one user or more, or remove it")
        return self


def _asked(given: object) -> object:
    """`true` and `false` in place of an approval's settings."""
    return {True: {}, False: None}[given] if isinstance(given, bool) else given


class Edge(Settings):
    """Which devices get a new champion, and how much worse than the server they may answer."""

    connection: ConnectionName = "sluice_edge"
    """Its password is the signing key: 64 hexadecimal digits."""
    group: str = Field(default="all", min_length=1, max_length=100)
    """The group of devices."""
    precision: Literal["fp32", "fp16", "int8", "int8_static"] = "int8"
    """Format of the graph's weights; int8_static fixes the scales of what flows between its layers too, by training rows."""
    share: float = Field(default=1.0, ge=0, le=1)
    """Share of the devices that get a new version first; all with 1."""
    bound: float = Field(default=0.02, gt=0)
    """Largest difference of a score from the server's on the hold-out, as a share of scores above 1."""
    loss: float = Field(default=0.01, ge=0)
    """How much worse `gate.metric` may be than the server's on the hold-out."""


class Rollout(Settings):
    """How a version meets the users' requests before it takes the champion's place."""

    mode: Literal["canary", "shadow"]
    """`canary`: its answers go out to a share of the requests; `shadow`: the champion's go out, and its own are made beside them and logged."""
    share: float = Field(default=0.1, gt=0, le=1)
    """Share of the requests that it is given; of a canary one half at most."""
    requests: Positive = 500
    """How many of its answers are waited for."""
    timeout: Duration = timedelta(minutes=30)
    """How long they are waited for. A version that has met too few requests by then is not promoted."""
    slower: float = Field(default=2.0, gt=1)
    """How many times the champion's median and 95th percentile of an answer's processor time its own may be."""

    @model_validator(mode="after")
    def _leaves_enough_to_compare_with(self) -> Self:
        if self.mode == "canary" and self.share > 0.5:
            raise ValueError(
                f"share {self.share:g} of a canary is more than one half, which leaves the champion too little to be compared by; "
                "lower it, or use `mode: shadow`"
            )
        return self


class Deployment(Settings):
    """Where the champion serves."""

    port: int | None = Field(default=None, ge=1024, le=65535)
    """Port of the local service on 127.0.0.1; a free one is picked and kept when absent."""
    token: Token | None = None
    """The bearer token without which the service answers nothing but its health and its metrics; whoever reaches it may ask when absent."""
    recommend: Recommend | None = None
    """What `POST /recommend` chooses from; the service recommends nothing when absent."""
    approve: Annotated[Approval | None, BeforeValidator(_asked)] = None
    """Whether a person is asked in the Airflow UI before a version is deployed: `true`, or how (`{timeout: 12h}`)."""
    batch: bool = False
    """Whether each partition is scored once it is prepared, into the table `scored`."""
    edge: Edge | None = None
    """Which devices get each new champion; none when absent."""
    tolerance: float = Field(default=1e-3, gt=0)
    """Largest difference between a score of the evaluation and the service's answer to the same row."""
    unknown_categories: Literal["answer", "refuse"] = "answer"
    """Whether a request with a category that the model does not know is answered, as for any rare one, or refused."""

    rollout: Rollout | None = None
    """How a version meets the users' requests before it is promoted; when absent, not before its answers to recorded rows have been found right."""

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that the targets beside the service take."""
        return (*(("score",) if self.batch else ()), *(("release",) if self.edge is not None else ()))
