"""`python -m hybridprompt` is the command `hybridprompt`."""

import sys

from hybridprompt.cli import main

if __name__ == "__main__":
    sys.exit(main())
