"""python -m gdconv: the command."""

from gdconv.cli.main import main

raise SystemExit(main())
