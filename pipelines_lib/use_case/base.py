"""What the settings of every part share."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen, no unknown keys, every default checked like a given value."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
