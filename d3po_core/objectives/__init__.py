"""The training losses: small functions over the same records, one file each; ``specs.py`` lists them without torch."""
