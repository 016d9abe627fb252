"""Starts the cloud of a world: `python -m world.cloud --name NAME --state DIR --port 4566 --driver none`."""

from __future__ import annotations

import argparse
import logging
import os
import pathlib
import signal
import threading

from world.machines.base import Driver

from . import images
from .settings import Settings

GATEWAY_ADDRESS = "172.31.0.1"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m world.cloud", description=__doc__)
    parser.add_argument("--name", required=True, help="name of the world")
    parser.add_argument("--state", required=True, type=pathlib.Path, help="folder for logs, credentials, artifacts")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=4566, help="0 takes a free one; DIR/port tells which")
    parser.add_argument("--driver", choices=("nspawn", "process", "none"), required=True)
    parser.add_argument("--transit", type=float, default=0.5, help="seconds that a transit state lasts at least")
    parser.add_argument("--iam-lag", type=float, default=2.0, help="seconds until EC2 knows a new profile")
    parser.add_argument("--read-lag", type=float, default=0.3, help="seconds until a new thing can be read")
    parser.add_argument("--no-throttle", action="store_true", help="no token buckets")
    parser.add_argument("--imds", action="store_true", help="serve the metadata service, on 169.254.169.254")
    parser.add_argument("--operator-policy", type=pathlib.Path, help="IAM policy document of the operator; none: all")
    return parser.parse_args()


def prepare_moto(state: pathlib.Path) -> None:
    """moto reads these when it is imported, so this comes before every import of it."""
    os.environ.setdefault("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")
    os.environ["MOTO_ENABLE_AMI_VALIDATION"] = "true"
    os.environ.pop("MOTO_ACCOUNT_ID", None)
    from .accounts import HOME_ACCOUNT

    images.write_catalogue(state, HOME_ACCOUNT)
    from . import moto_patches

    moto_patches.apply()


def open_driver(options: argparse.Namespace) -> Driver:
    from world import machines

    endpoint = f"http://{GATEWAY_ADDRESS}:{options.port}"
    return machines.open_driver(options.driver, options.name, options.state, endpoint)


def main() -> None:
    options = arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    options.state.mkdir(parents=True, exist_ok=True)
    (options.state / "artifacts").mkdir(exist_ok=True)
    prepare_moto(options.state)

    from . import assembly

    settings = Settings(
        transit=options.transit,
        iam_lag=options.iam_lag,
        read_lag=options.read_lag,
        tag_lag=options.read_lag,
        throttle=not options.no_throttle,
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    running = assembly.start(options, settings, open_driver(options))
    try:
        stop.wait()
    finally:
        running.close()


if __name__ == "__main__":
    main()
