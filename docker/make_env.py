"""Makes docker/.env: the passwords and keys of the compose file and of `make kind-up`, drawn by chance. What is there already stays.

    python3 docker/make_env.py

Standard library only. The file can be read by its owner alone, and git ignores it.
"""

import base64
import os
import secrets
from pathlib import Path

PATH = Path(__file__).with_name(".env")
PASSWORDS = (
    "POSTGRES_PASSWORD",
    "AIRFLOW_DB_PASSWORD",
    "MLFLOW_DB_PASSWORD",
    "REDIS_PASSWORD",
    "AIRFLOW_ADMIN_PASSWORD",
    "AIRFLOW_API_SECRET_KEY",
    "AIRFLOW_JWT_SECRET",
    "STORE_SECRET_KEY",
    "PRIVACY_KEY",
)
"""Hexadecimal: they stand in URLs as they are."""


def drawn() -> dict[str, str]:
    """A new value for each name."""
    values = {name: secrets.token_hex(32) for name in PASSWORDS}
    values["STORE_ACCESS_KEY"] = secrets.token_hex(10)
    values["AIRFLOW_FERNET_KEY"] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return values


def main() -> None:
    """Add what is missing and change nothing: databases keep the passwords that they were made with."""
    descriptor = os.open(PATH, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
        known = {line.split("=", 1)[0] for line in file}
        file.writelines(f"{name}={value}\n" for name, value in drawn().items() if name not in known)


if __name__ == "__main__":
    main()
