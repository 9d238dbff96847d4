"""The mini benchmark: small real data from package registries, with splits that measure something (README.md)."""
