"""What the API server says where it does not do what it is asked: from an error of its client to one of the names that an end has."""

import json
from typing import Any

from kubernetes.client import ApiException
from kubernetes.config import ConfigException

from pipelines_lib.pods.ends import End


def refused(error: Exception, profile: str) -> End:
    """Why no pod could be made, where `profile` is the name of the profile that says how."""
    if isinstance(error, ConfigException):
        return End(
            "Refused", f"there is no way to the cluster ({error}); name a connection under kubernetes.connection of profile {profile}"
        )
    if not isinstance(error, ApiException):
        return End("Unreachable", str(error))
    return End(_name(error), f"{error.status} {message_of(error)}")


def is_over_quota(error: ApiException) -> bool:
    """Whether a quota of the namespace is used up, so that trying again later may help."""
    return error.status == 403 and "exceeded quota" in message_of(error)


def already_exists(error: ApiException) -> bool:
    """Whether there is an object of this name."""
    return error.status == 409 and _status(error).get("reason") == "AlreadyExists"


def message_of(error: ApiException) -> str:
    """The API server's own sentence."""
    return str(_status(error).get("message") or error.reason)


def _name(error: ApiException) -> str:
    if is_over_quota(error):
        return "QuotaExceeded"
    return {400: "Refused", 401: "Unauthorized", 403: "Forbidden", 404: "Refused", 422: "Refused"}.get(error.status, "Unreachable")


def _status(error: ApiException) -> dict[str, Any]:
    try:
        body = json.loads(error.body or "")
    except (TypeError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}
