"""The command `sluice edge`, and on a device, which has no `sluice`, `python -m pipelines_lib.edge`.

What a device does (pull, verify, predict, back) needs the extra `edge` alone; the rest imports what it needs when it runs.
"""

import argparse
import io
import json
import sys
from pathlib import Path
from typing import Any, TextIO

from pipelines_lib.errors import BadInput, DataError, Held, SluiceError

KEY = "sluice_edge"
"""The connection whose password is the signing key, unless another is named."""


def main(arguments: list[str] | None = None) -> int:
    """Do what the arguments say; returns the exit code."""
    given = _parser().parse_args(arguments)
    try:
        return int((_on_device if given.what in {"pull", "verify", "predict", "back"} else _operate)(given))
    except SluiceError as error:
        print(f"sluice: {error}", file=sys.stderr)  # noqa: T201
        return 2 if isinstance(error, BadInput) else 3 if isinstance(error, Held) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sluice edge", description="A model on devices.")
    verbs = parser.add_subparsers(dest="what", required=True)

    def verb(name: str, about: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=about, description=about)

    for name, about in (
        ("pull", "Bring the bundle that is meant for this device."),
        ("verify", "Verify the bundle in use, every byte."),
        ("predict", "Answer rows: JSON lines or CSV, from a file or the standard input."),
        ("back", "Use the bundle before."),
    ):
        device = verb(name, about)
        device.add_argument("--folder", type=Path, default=Path("bundle"), help="Where this device keeps its bundles (bundle).")
        if name != "back":
            device.add_argument(
                "--key",
                required=True,
                help="The file with the public key that is trusted; several, one a line, the newest first.",
                type=Path,
            )
        if name == "pull":
            device.add_argument("source", help="The group's folder in the store, or its https:// address.")
            device.add_argument("--device", required=True, help="The id of this device, which says when it gets a candidate.")
        if name == "predict":
            device.add_argument("file", nargs="?", type=Path, help="The rows; the standard input when absent.")
            device.add_argument("--csv", action="store_true", help="The rows are CSV with a header.")
    for name, about in (
        ("release", "Make a bundle of the version that serves, and put it up for a share of a group's devices."),
        ("widen", "Give the candidate to more devices; to all with 1."),
        ("rollback", "Take the candidate back, or go back to the stable bundle before."),
        ("resign", "Sign what a group's devices are pointed to with another key."),
        ("status", "Show what a group's devices are pointed to."),
        ("key", "Print the public key, for the devices."),
    ):
        operator = verb(name, about)
        operator.add_argument("--key", default=KEY, help=f"The connection whose password is the signing key ({KEY}).")
        if name != "key":
            operator.add_argument("use_case")
            operator.add_argument("--group", default="all", help="The group of devices (all).")
        if name in {"release", "widen"}:
            operator.add_argument("--share", type=_share, default=1.0, help="Share of the devices, 0 to 1 (1).")
        if name == "resign":
            operator.add_argument("--was", required=True, help="The connection whose password is the key that signed it.")
        if name == "release":
            operator.add_argument(
                "--precision", choices=("fp32", "fp16", "int8", "int8_static"), default="int8", help="Format of the weights (int8)."
            )
            operator.add_argument("--bound", type=float, default=0.02, help="Largest difference of a score from the server's (0.02).")
            operator.add_argument("--loss", type=float, default=0.01, help="What gate.metric may lose on the hold-out (0.01).")
    return parser


def _share(text: str) -> float:
    if not 0 <= (share := float(text)) <= 1:
        raise argparse.ArgumentTypeError("a share is between 0 and 1")
    return share


def _on_device(given: argparse.Namespace) -> int:
    from pipelines_lib.edge import device  # noqa: PLC0415
    from pipelines_lib.edge.bundle import public_keys  # noqa: PLC0415
    from pipelines_lib.edge.rows import answers  # noqa: PLC0415

    if given.what == "back":
        return _say(device.roll_back(given.folder))
    try:
        keys = public_keys(given.key.read_text(encoding="utf-8", errors="replace"))
    except (OSError, DataError) as error:
        raise BadInput(f"the public key can't be read from {given.key} ({error}); `sluice edge key` prints it") from error
    if given.what == "pull":
        return _say(device.pull(given.source, given.folder, given.device, keys))
    bundle = device.opened(given.folder, keys)
    if given.what == "verify":
        return _say({name: bundle.manifest[name] for name in ("use_case", "version", "precision", "package")})
    # Bytes that are no UTF-8 reach the row they stand in, which is refused alone.
    if given.file is None:
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
        return _predict(answers(bundle, sys.stdin, as_csv=given.csv))
    try:
        rows: TextIO = given.file.open(encoding="utf-8", errors="surrogateescape", newline="")
    except OSError as error:
        raise BadInput(
            f"the rows can't be read ({error}); name a file that is there and may be read, or leave it out and send them on standard input"
        ) from error
    with rows:
        return _predict(answers(bundle, rows, as_csv=given.csv))


def _predict(said: Any) -> int:
    wrong = 0
    for answer in said:
        wrong += "error" in answer
        _say(answer)
    return 2 if wrong else 0


def _operate(given: argparse.Namespace) -> int:
    try:
        from pipelines_lib.edge.operate import operate  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise BadInput(
            f"`{given.what}` is for who operates Sluice, not for a device ({error}); run `sluice edge {given.what}` there"
        ) from error
    if given.what == "key":
        print(operate(given)["key"])  # noqa: T201
        return 0
    return _say(operate(given))


def _say(document: dict[str, Any]) -> int:
    print(json.dumps(document, ensure_ascii=False))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
