"""The cloud of the test world: moto behind a shell that has AWS's manners (see README.md)."""
