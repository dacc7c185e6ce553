"""The command line, as ``python -m nelbo``."""

from nelbo.flows.cli.main import main

if __name__ == "__main__":
    main()
