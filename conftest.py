"""Load the plugin that gives the claims their options, cases and landscapes."""

pytest_plugins = ["fixtures.plugin", "fixtures.judging"]
