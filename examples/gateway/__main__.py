"""`python -m examples.gateway`: a chat room over real websockets."""

import anyio

from examples.gateway.demo import demo

if __name__ == "__main__":
    anyio.run(demo)
