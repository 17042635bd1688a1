"""Run the service of a use case: `python -m pipelines_lib.serving.server --root <store>/<use_case> --port 8800`.

It follows the use case's deployment by itself and ends, its prediction log written, on SIGTERM or Ctrl-C.
"""

import argparse
import gc
import logging
import sys
from contextlib import suppress

import uvicorn

from pipelines_lib.config import Project
from pipelines_lib.errors import ConfigError
from pipelines_lib.serving.access import token_of
from pipelines_lib.serving.app import create_app
from pipelines_lib.serving.protocol import Protocol
from pipelines_lib.store import opened
from pipelines_lib.use_case import Token


def main() -> None:
    """Parse the command line and serve until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="the use case's folder in the store, or its s3:// address")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 127.0.0.1 is this machine alone")
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--token", help="the connection whose password requests must carry as a bearer token")
    parser.add_argument("--candidate", action="store_true", help="serve the version that is being verified; no user may be sent here")
    arguments, project = parser.parse_args(), Project.from_environment()
    try:
        token = token_of(Token(connection=arguments.token) if arguments.token else None)
    except ConfigError as error:
        sys.exit(str(error))  # never without it: what the use case protects would be open
    # The prediction log's thread gives way to requests that often; else each waits 5 ms for it.
    sys.setswitchinterval(0.0005)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    app = create_app(opened(arguments.root, project).resolve(), home=project.home, candidate=arguments.candidate, token=token)
    # What is imported stays. The garbage collector would go through all of it again and again, 40 ms in which nobody is answered.
    gc.freeze()
    config = uvicorn.Config(
        app,
        host=arguments.host,
        port=arguments.port,
        http=Protocol,
        proxy_headers=False,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=5,
    )
    sockets = [config.bind_socket()]
    # The event loop takes one connection of a socket for each round of requests: without copies, of clients that come at once the last waits
    # as many rounds as there are clients.
    sockets += [sockets[0].dup() for _ in range(15)]
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt):
        server.run(sockets)
    if not server.started:
        sys.exit(1)


if __name__ == "__main__":
    main()
