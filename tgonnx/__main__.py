"""`python -m tgonnx`."""

import sys

from tgonnx.cli import main

sys.exit(main())
