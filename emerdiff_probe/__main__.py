"""Run the `emerdiff-probe` command as `python -m emerdiff_probe`."""

from emerdiff_probe.cli import main

if __name__ == "__main__":
    main()
