"""`python -m rerankkit`, which is how torchrun starts it."""

from rerankkit.cli import main

if __name__ == "__main__":
    main()
