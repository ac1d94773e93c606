"""Entry point under the published name: ``python main.py --cluster-config ... --dataset ...``."""

import gc
import os

# nothing here multiplies large matrices, so numpy need not start threads for that
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from inference_serving.cli import main

if __name__ == "__main__":
    gc.freeze()  # what has been imported stays to the end, so no garbage collection need look at it
    raise SystemExit(main())
