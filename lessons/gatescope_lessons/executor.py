"""One notebook, executed by papermill in a process of its own: ``python -m gatescope_lessons.executor job.json``.

Imports nothing of this project, so that a job starts fast and a kernel that hangs can be ended with its process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(job_file: str) -> int:
    """Execute the notebook the job names and write ``{"error": ..., "message": ...}`` to its ``result`` file.

    ``error`` is the exception's class name, empty when every cell ran.
    """
    import papermill

    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    error, message = "", ""
    try:
        papermill.execute_notebook(
            job["input"],
            job["output"],
            parameters=job["parameters"],
            kernel_name="python3",
            cwd=job["cwd"],
            execution_timeout=job["cell_limit"],
            progress_bar=job["progress"],
            log_output=False,
        )
    except Exception as failure:  # whatever ended the notebook is the answer the parent waits for
        error, message = type(failure).__name__, str(failure)
    Path(job["result"]).write_text(json.dumps({"error": error, "message": message}), encoding="utf-8")
    return 1 if error else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
