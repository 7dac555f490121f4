"""The explorer: a page in the browser that shows a prompt teaching a model."""
