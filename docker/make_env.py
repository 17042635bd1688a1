"""Makes docker/.env: the passwords and keys of the compose file and of `make kind-up`, drawn by chance. It stays as it is where it is there already.

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
)
"""Hexadecimal: they stand in URLs as they are."""


def content() -> str:
    """New secrets, a line each."""
    drawn = {name: secrets.token_hex(32) for name in PASSWORDS}
    drawn["STORE_ACCESS_KEY"] = secrets.token_hex(10)
    drawn["AIRFLOW_FERNET_KEY"] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return "".join(f"{name}={value}\n" for name, value in drawn.items())


def main() -> None:
    """Write the file unless there is one: databases keep the passwords that they were made with."""
    try:
        descriptor = os.open(PATH, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content())


if __name__ == "__main__":
    main()
