"""Surgery: new models made from trained ones: experts made many, softmax attention made recurrent, adapters."""

from gatescope.surgery.conversion import to_liger
from gatescope.surgery.diversify import diversify
from gatescope.surgery.lora import LoRASpec, adapters, merged, with_lora

__all__ = ["LoRASpec", "adapters", "diversify", "merged", "to_liger", "with_lora"]
