"""`python -m tgonnx`."""

import sys

from tgonnx.cli.app import main

sys.exit(main())
