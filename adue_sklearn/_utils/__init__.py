"""Helpers that several layers share."""
