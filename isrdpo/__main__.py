"""python -m isrdpo: the same as the `isrdpo` command."""

from isrdpo.cli import main

if __name__ == "__main__":
    main()
