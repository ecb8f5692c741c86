"""The version of this package: in manifests, in caches' keys, and in pyproject.toml by way of hatch."""

VERSION = "0.1.0"
