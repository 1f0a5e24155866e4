"""PiBot V3: an LLM-agent fleet for Raspberry Pis, one master and any number of small workers."""

from __future__ import annotations

__version__ = "3.0.0"
