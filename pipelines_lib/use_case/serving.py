"""Where the champion serves: `deployment:`."""

from pydantic import Field

from pipelines_lib.use_case.base import ConnectionName, Settings


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


class Deployment(Settings):
    """Where the champion serves."""

    port: int | None = Field(default=None, ge=1024, le=65535)
    """Port of the local service on 127.0.0.1; a free one is picked and kept when absent."""
    token: Token | None = None
    """The bearer token without which the service answers nothing but its health and its metrics; whoever reaches it may ask when absent."""
    recommend: Recommend | None = None
    """What `POST /recommend` chooses from; the service recommends nothing when absent."""
    approve: bool = False
    """Whether a person approves each promotion in the Airflow UI."""
    tolerance: float = Field(default=1e-3, gt=0)
    """Largest difference between a score of the evaluation and the service's answer to the same row."""
