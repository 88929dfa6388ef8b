"""The set-up scripts are no package: imported from their folder, as ``python scripts/bootstrap.py`` does."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
