"""``python -m gatescope.models.smollm2``: convert the model of the wheel into the cache, once."""

import sys

from gatescope.errors import Refusal
from gatescope.models.smollm2 import convert

if __name__ == "__main__":
    try:
        print(f"SmolLM2-135M is ready in {convert()}")
    except Refusal as error:
        sys.exit(str(error))
