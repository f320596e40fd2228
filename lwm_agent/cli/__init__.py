"""The command line, ``lwm-agent``."""
