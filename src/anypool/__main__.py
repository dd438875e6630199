"""``python -m anypool``: the command `anypool`."""

from __future__ import annotations

import sys

from anypool.cli import main

if __name__ == "__main__":
    sys.exit(main())
