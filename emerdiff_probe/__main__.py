"""`python -m emerdiff_probe` is the `emerdiff-probe` command."""

from emerdiff_probe.cli import main

if __name__ == "__main__":
    main()
