"""The ``kan-md`` command line."""
