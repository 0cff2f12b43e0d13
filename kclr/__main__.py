"""`python -m kclr`, the same as `kclr`."""

import sys


def main() -> int:
    """The command line; Ctrl-C during loading ends it without a traceback."""
    try:
        from kclr import cli

        return cli.main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
