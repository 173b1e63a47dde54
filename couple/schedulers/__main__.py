"""Print the table of schedulers as Markdown: `python -m couple.schedulers`."""

from couple.schedulers.listing import markdown

print(markdown())
