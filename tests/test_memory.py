import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc's malloc is meant")
def test_freed_memory_is_used_again():
    code = (
        "import resource, numpy as np\n"
        "from keras_mmai.memory import keep_freed_memory\n"
        "keep_freed_memory()\n"
        "faults = []\n"
        "for _ in range(10):\n"
        "    np.full(2**24, 1, 'float32')\n"
        "    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)\n"
        "print(faults[-1] - faults[0])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 100  # 64 MiB nine times again: 16,384 small pages each time, or 32 large ones
