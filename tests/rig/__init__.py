"""Servers, topologies, networks and tokens that tests and bench share."""
