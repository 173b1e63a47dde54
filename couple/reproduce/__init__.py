"""The paper's tables and plots, made anew with the bundled models: `couple reproduce`.

* `scenes`: the scenes that are edited, and their true answers; `nearest`: the true edit nearest to a sample.
* `models`, `ways`: the models, and every way of editing a scene with them; `measures`: what is measured of it.
* `pairs`, `three`: prompts coupled in twos and more, and three models at once.
* `plan`, `tuning`: what is measured, with which settings, and how those were chosen.
* `ledger`, `running`: finished work, and how it is done.
* `tables`, `figures`, `report`: what is made of it.
"""
