"""An oracle of the digest of a tensor's bytes, as docs/store.md tells it."""

from blake3 import blake3
from xxhash import xxh3_128_digest, xxh3_128_hexdigest


def block_digest(data: bytes) -> str:
    """BLAKE3 of the BLAKE3 digests of blocks of 1 MiB, and XXH3 of their XXH3."""
    blocks = [data[at : at + 1_048_576] for at in range(0, len(data), 1_048_576)]
    first = blake3(b"".join(blake3(block).digest() for block in blocks)).hexdigest()
    return f"{first}-{xxh3_128_hexdigest(b''.join(xxh3_128_digest(block) for block in blocks))}"
