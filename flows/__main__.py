"""``python -m flows`` is ``d3po``."""

from flows.cli import main

if __name__ == "__main__":
    main()
