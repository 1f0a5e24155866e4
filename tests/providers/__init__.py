"""Whole tasks and jobs on servers that are as strict as the providers are."""
