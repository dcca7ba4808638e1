"""`python -m pond` is the `pond` command."""

from pond.cli.main import main

if __name__ == "__main__":
    main(prog_name="pond")
