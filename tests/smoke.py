"""An example at its smallest size."""

import json
import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def smoke(name, output, arguments=(), **environment):
    """The report of an example at its smallest size, and what it printed."""
    command = [sys.executable, EXAMPLES / name, "--smoke", "--output", output, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads((output / "report.json").read_text()), result.stdout
