"""The run folder: what a run computed, on a disk or on S3, and the proof that it is still what was computed.

Knows numpy, zarr, pyarrow and obstore; knows no torch, no Prefect and nothing of the method. Three verbs on an epoch:
``begin`` an attempt, ``commit`` it, ``fetch`` what is committed (verified). Import the modules, not this package.
"""

import os

# Before the first import of pyarrow. Its own allocator keeps some 15 MB that an epoch's tables took for a moment.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
