"""``python -m kan_md`` is ``kan-md``."""

from kan_md.cli.main import main

main()
