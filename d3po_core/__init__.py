"""The method: denoising as a decision process, and preferences over it. Knows no scheduler of work, store or labels."""

import os

# Before transformers is first imported: it warns of image processors that nobody here uses, and draws bars in logs.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
