"""The mini benchmark from real encoders that others pretrained: a study (README.md)."""
