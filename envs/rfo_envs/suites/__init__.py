"""Adapters to other people's suites; they carry no gradients and need `pip install 'rfo[suites]'`."""
