"""The number types that this machine's CPU computes by itself."""

from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
# How Linux spells bfloat16 products: on x86, and on ARM.
BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}


def has_bfloat16(cpu_info: Path = CPU_INFO) -> bool:
    """Return whether the CPU multiplies in bfloat16. True where the system does not tell.

    A CPU without bfloat16 converts each number before it multiplies, so float32 is faster on it.
    """
    if not cpu_info.exists():
        return True
    lines = cpu_info.read_text(encoding="utf-8", errors="replace").splitlines()
    flags = [line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features"))]
    return not flags or bool(BFLOAT16 & {*flags[0]})
