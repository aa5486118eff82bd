"""`python -m sg3` is the `sg3` program."""

from sg3.cli.main import main

if __name__ == "__main__":
    main()
