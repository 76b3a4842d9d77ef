"""`python -m twinstep` is the command `twinstep`."""

import sys

from twinstep.command import main

if __name__ == "__main__":
    sys.exit(main())
