"""The HTML report and docs/RESULTS.md: their text, tables and SVG charts."""
