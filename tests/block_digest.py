"""An oracle of the digest of a tensor's bytes, as docs/store.md tells it."""

from blake3 import blake3


def block_digest(data: bytes) -> str:
    """BLAKE3 of the BLAKE3 digests of blocks of 1 MiB."""
    blocks = [data[at : at + 1_048_576] for at in range(0, len(data), 1_048_576)]
    return blake3(b"".join(blake3(block).digest() for block in blocks)).hexdigest()
