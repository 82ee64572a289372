"""Hand-written kernels for networks on CPUs, behind two names.

`use_cpu_kernels` is a context in which convolutions use the kernels that are faster or more exact than PyTorch's;
U-Nets call `fused_level` for a level of the decoder. Layers keep their classes, parameters and attributes.
Outside the context, and so if `--precision fp32` is asked for, PyTorch computes everything.

To turn the kernels off, set `ctseg.nets.cpu.autocast.ENABLED` to False. To remove them, delete this folder and
`tests/nets/cpu`, and the lines in `ctseg/engine/model/runtime.py` and `ctseg/nets/unet.py` that use the two names.
"""

from ctseg.nets.cpu.conv import use_cpu_kernels
from ctseg.nets.cpu.fused_upsample import fused_level

__all__ = ["fused_level", "use_cpu_kernels"]
