"""``python -m optimx``."""

from optimx.cli import main

raise SystemExit(main())
