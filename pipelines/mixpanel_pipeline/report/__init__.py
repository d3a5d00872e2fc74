"""The report: numbers read from the models, and a page that shows them."""
