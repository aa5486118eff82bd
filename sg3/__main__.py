"""Run the `sg3` program: `python -m sg3`."""

from sg3.cli.main import main

if __name__ == "__main__":
    main()
