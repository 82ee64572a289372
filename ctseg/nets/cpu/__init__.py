"""Hand-made kernels for mixed precision on CPUs. Nothing outside this folder knows more of it than these two names.

`use_cpu_kernels` is a context in which convolutions are computed by the kernels that are faster or more exact;
`fused_level` is asked by U-Nets for a level of the decoder. Layers keep their classes, parameters and attributes.
Outside the context, and so if `--precision fp32` is asked for, everything is computed as PyTorch does.

To turn the kernels off, set `ctseg.nets.cpu.autocast.ENABLED` to False. To remove them, delete this folder and
`tests/nets/cpu`, and the lines in `ctseg/engine/model/runtime.py` and `ctseg/nets/unet.py` that use the two names.
"""

from ctseg.nets.cpu.conv import use_cpu_kernels
from ctseg.nets.cpu.fused_upsample import fused_level

__all__ = ["fused_level", "use_cpu_kernels"]
