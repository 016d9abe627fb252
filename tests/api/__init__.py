"""Tests of the kinds on a real API server: what it accepts, refuses, keeps and shows."""
