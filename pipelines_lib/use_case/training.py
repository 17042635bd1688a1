"""The model and the loop that trains it: `training:`."""

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from pipelines_lib.use_case.base import Duration, Range, Settings

Strategy = Literal["ddp", "fsdp", "local_sgd", "async"]
Precision = Literal["fp32", "bf16", "fp16"]
ModelType = Literal["tabular", "sequence", "ranking", "uplift", "hooks"]
Shuffle = Literal["rows", "blocks"]
Device = Literal["auto", "cuda", "mps", "xla", "cpu"]

OF_THE_MACHINES = ("workers", "nodes", "shares", "device", "compile", "checkpoint_steps", "keep_checkpoints", "timeout", "tensorboard")
"""Settings of a training that do not decide what it learns, and may change between two tries of it."""


class Model(Settings):
    """What is trained."""

    type: ModelType = "tabular"
    """`tabular`: numbers, categories and texts into an MLP; `sequence`: windows of sensors into an
    encoder, and the other features beside it; `ranking`: a tower for the user and one for the item, crossed with each other and the rest; `uplift`: a trunk, and a head for each arm of the column with
    `role: treatment`; `hooks`: what `model(shape, settings)` of
    `hooks.py` returns."""
    hidden: list[Annotated[int, Field(ge=1)]] = Field(default=[128, 64], min_length=1)
    """Widths of the hidden layers."""
    embedding: int = Field(default=8, ge=1)
    """Width of a category's embedding; text gets eight times as much."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    pieces: int = Field(default=32, ge=0, le=1024)
    """Into how many pieces, with as many training rows each, the range of a number is cut, so that the model can bend there; 0: none."""
    members: int = Field(default=1, ge=1, le=64)
    """`tabular`: networks that share their weights but for some factors, and whose mean is answered with. Each costs as much time as one alone."""
    text: Literal["grams", "words", "transformer"] = "grams"
    """How a text is read. `words`: as a bag of words; `grams`: of their pairs and of all runs of three letters too, which forgive a spelling
    and an ending; `transformer`: its words in their order, by attention. In Chinese and Japanese a character is a word."""
    series: dict[str, list[str] | str] = Field(default_factory=dict)
    """`sequence`, `hooks`: each sensor's columns in the order of time, oldest first: their names, or one with `{step}` in it (`heat_{step}`), which
    stands for those with a number there, in its order."""
    encoder: Literal["gru", "transformer"] = "gru"
    """`sequence`: what goes over the steps; it is as wide as the first hidden layer."""
    layers: int = Field(default=1, ge=1, le=12)
    """Layers of a sequence's encoder, and of a text's transformer."""
    heads: int = Field(default=4, ge=1)
    """Attention heads of a transformer's layer."""
    user: list[str] = Field(default_factory=list)
    """`ranking`: the features that say who is asked …"""
    item: list[str] = Field(default_factory=list)
    """… and those that say what is offered; the others are the circumstances."""
    crosses: int = Field(default=2, ge=1, le=8)
    """`ranking`: cross layers; each multiplies features with those of the one before."""
    control: str | None = None
    """`uplift`, `hooks`: the arm that is no treatment. A served row whose arm is missing or unknown is answered as one of it."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """`hooks`: whatever the function makes of it, as `settings.options`."""

    @model_validator(mode="after")
    def _settings_of_its_kind(self) -> Self:
        if self.type == "sequence" and not self.series:
            raise ValueError("`type: sequence` reads windows of sensors; name each sensor's columns under `series`")
        if self.type == "ranking" and not (self.user and self.item):
            raise ValueError("`type: ranking` brings a user and an item together; name the features of each under `user` and `item`")
        if self.type == "uplift" and self.control is None:
            raise ValueError("`type: uplift` compares treatments with a control; name that arm as `control`")
        if self.encoder == "transformer" and self.hidden[0] % self.heads:
            raise ValueError(
                f"the encoder is {self.hidden[0]} wide (the first of `hidden`), which {self.heads} heads can't share; make it a multiple of `heads`"
            )
        if self.text == "transformer" and 8 * self.embedding % self.heads:
            raise ValueError(
                f"a text is read {8 * self.embedding} wide (eight times `embedding`), which {self.heads} heads can't share; make it a multiple of `heads`"
            )
        defaults = type(self).model_construct()
        for name, kinds in _KINDS_WITH.items():
            if self.type not in kinds and getattr(self, name) != getattr(defaults, name):
                raise ValueError(
                    f"`{name}` is a setting of `type: {' or '.join(kinds)}`, and this model is `type: {self.type}`; remove it, or change the type"
                )
        return self


_KINDS_WITH: dict[str, tuple[ModelType, ...]] = {
    "series": ("sequence", "hooks"),
    "encoder": ("sequence",),
    **dict.fromkeys(("layers", "heads"), ("sequence", "tabular", "ranking", "uplift")),
    **dict.fromkeys(("user", "item", "crosses"), ("ranking",)),
    "members": ("tabular",),
    "control": ("uplift", "hooks"),
    "options": ("hooks",),
}
"""Settings that not every kind of model has, and the kinds that do."""


class Training(Settings):
    """The model, and how it is trained."""

    window: int = Field(default=14, ge=1)
    """Partitions a training reads, the newest last."""
    model: Model = Model()
    epochs: int = Field(default=10, ge=1)
    """At most so many passes over the training rows."""
    patience: int = Field(default=3, ge=1)
    """Epochs without a better validation loss before training stops; the best epoch's weights are kept."""
    batch_size: int = Field(default=256, ge=1)
    """Rows of the global batch, over all workers."""
    accumulate: int = Field(default=1, ge=1)
    """In how many parts a worker goes through its share of a batch, for batches whose activations do not fit. The gradient is the batch's."""
    learning_rate: float = Field(default=1e-3, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    """`cosine`: the learning rate rises for a twentieth of the steps and falls to nothing by the last epoch."""
    weight_decay: float = Field(default=1e-4, ge=0)
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of a step's gradient; a longer one is shortened to it."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Decides the first weights, the order of the rows, dropout, and what a tuning tries."""
    shuffle: Shuffle = "rows"
    """The order of an epoch: `rows`, any row may come after any other; `blocks`, runs of neighbouring rows, shuffled among themselves, for
    data larger than memory, which is then read in long runs."""

    workers: int = Field(default=2, ge=1, le=64)
    """Processes that train together, on each machine."""
    nodes: Range = (1, 1)
    """Machines that train together: so many (`2`), or as many as there are between the least and the most (`2..4`). One machine is what the
    local launcher has, whatever stands here; a tuning's trial is on one as well."""
    strategy: Strategy = "ddp"
    """How they do: `ddp`, one gradient a step; `fsdp`, the same with parameters in shards; `local_sgd`, steps of their own and an average
    now and then; `async`, gradients to a parameter server as they come."""
    sync_steps: int = Field(default=8, ge=1)
    """`local_sgd`: steps between two averages."""
    staleness: int = Field(default=4, ge=1)
    """`async`: updates by which the weights that a gradient was computed on may be behind."""
    shares: Literal["measured", "equal"] | list[Annotated[float, Field(gt=0)]] = "measured"
    """How a batch is shared out: by the throughput that each worker shows at the start, in equal parts, or in these proportions."""
    device: Device = "auto"
    """What computes: `auto` takes CUDA, XLA, MPS or the CPU, the first that is there."""
    precision: Precision = "fp32"
    """Of the matrix products; weights and sums stay fp32. fp16 scales its loss."""
    tf32: bool = False
    """Whether CUDA may round the factors of fp32 products to 10 bits (TF32)."""
    compile: bool = False
    """Whether torch.compile makes kernels for the model: a minute at the start, for long trainings."""
    checkpoint_steps: int = Field(default=400, ge=2)
    """At most so many steps are done again after a failure. A checkpoint is begun twice as often, and after each epoch, and is written while
    training goes on. (`local_sgd` writes them where it averages.)"""
    keep_checkpoints: int = Field(default=2, ge=1)
    """The newest so many are kept."""
    timeout: Duration = timedelta(minutes=5)
    """How long a worker may show no progress before it is taken to hang, and named."""
    tensorboard: bool = False
    """Whether TensorBoard's event files are written too, beside the stage's result. It needs the package `tensorboard`."""

    @model_validator(mode="after")
    def _workers_agree(self) -> Self:
        least, most = (self.workers * nodes for nodes in self.nodes)
        here = f"{self.workers} workers" if most == self.workers else f"{self.workers} workers on each of up to {self.nodes[1]} nodes"
        if isinstance(self.shares, list) and least != most:
            raise ValueError(
                f"a list of shares is for a given number of workers, and nodes goes from {self.nodes[0]} to {self.nodes[1]}; set `measured` or `equal`"
            )
        if isinstance(self.shares, list) and len(self.shares) != most:
            raise ValueError(f"shares has {len(self.shares)} proportions for {here}; give one for each, or set `measured` or `equal`")
        if self.strategy == "async" and self.staleness < most - 1:
            raise ValueError(
                f"with {here} a gradient is up to {most - 1} updates behind, and staleness allows {self.staleness}; raise it to {most - 1} or more"
            )
        return self
