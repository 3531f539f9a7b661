"""`python tests/conformance/serve.py HOME ROOT`: serves the product with the suite's fixtures until it is stopped.

The server is what `nightcrew mcp --http` and the service serve: the same offer, server object and door. HOME gets a
journal and the service's lock, so that the task tools work; what clients may do is everything. Prints the address.
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

import anyio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from conformance.fixtures import furnish
from nightcrew.config import Config
from nightcrew.journal import Journal
from nightcrew.journal.locks import ServiceLock
from nightcrew.service.outside import open_offer
from nightcrew_tools.address import Address
from nightcrew_tools.grants import outside_grants
from nightcrew_tools.http import http_app
from nightcrew_tools.listen import listening

ADDRESS = Address("127.0.0.1", 0)


async def main(home: Path, root: Path) -> None:
    config = Config(home=home)
    with ServiceLock(home), Journal.open(config.journal):
        async with (
            open_offer(config, outside_grants(None, has_roots=True), (root,), audit=config.mcp_audit) as offer,
            offer.server() as server,
            anyio.create_task_group() as group,
        ):
            furnish(server, group)
            async with listening(http_app({"full": server}, address=ADDRESS, tokens=None), ADDRESS) as port:
                print(f"http://127.0.0.1:{port}/mcp", flush=True)
                with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                    async for _ in signals:
                        break
            group.cancel_scope.cancel()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    anyio.run(main, Path(sys.argv[1]), Path(sys.argv[2]))
