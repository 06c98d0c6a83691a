"""MLflow's Kubernetes backend hands a container its words quoted as for a shell, which no shell reads: unquote them.

`python -m skippy.jobs.words entrypoints.svd --k 8 --device "''"` runs that module with the words as they were meant.
"""

import runpy
import shlex
import sys

if __name__ == "__main__":
    sys.argv = shlex.split(" ".join(sys.argv[1:]))
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
