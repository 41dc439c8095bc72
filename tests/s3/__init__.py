"""A real S3 server on loopback, and a proxy before it that counts and that breaks things."""
