"""``python -m ouroflow`` is the command line."""

import sys

from ouroflow.cli import main

sys.exit(main())
