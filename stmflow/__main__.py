"""`python -m stmflow` is the command line."""

from stmflow.cli import main

if __name__ == "__main__":
    main()
