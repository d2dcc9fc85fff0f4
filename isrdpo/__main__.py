"""python -m isrdpo: the same as the `isrdpo` command."""

from isrdpo.launch import main

if __name__ == "__main__":
    main()
