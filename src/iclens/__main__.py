"""`python -m iclens` is `iclens`: for `torchrun -m iclens`, and where the command is not on the path."""

import sys

from iclens.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
