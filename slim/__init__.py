"""SLiM: train and run small language models on an ordinary CPU, from the terminal, offline."""

__version__ = "0.1.0"
