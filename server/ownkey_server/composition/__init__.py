"""Settings to parts: ``core`` is what all stand on, ``use_cases`` what is served, ``upkeep`` what goes on beside it."""
