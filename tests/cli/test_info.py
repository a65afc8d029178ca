import platform

import numpy
import torch

import unot_fast


def test_info(call):
    result = call("info")
    assert result.exit_code == 0
    shown = dict(line.split(None, 1) for line in result.output.split("\n\n")[0].splitlines())
    assert shown["unot-fast"] == unot_fast.__version__
    assert shown["python"].startswith(platform.python_version())
    assert shown["torch"] == torch.__version__
    assert shown["numpy"] == numpy.__version__
    assert int(shown["threads"]) == torch.get_num_threads()
    assert {"triton", "cpu", "isa", "gpu"} <= shown.keys()
    assert str(unot_fast.backends()) in result.output
