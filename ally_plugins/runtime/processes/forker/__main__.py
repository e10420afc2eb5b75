"""What is run: forks until the guardian is gone; what it forks goes on here, as `python -m MODULE` would."""

from __future__ import annotations

from .forking import main

if __name__ == "__main__":
    main()
