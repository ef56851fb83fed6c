#!/usr/bin/env python
import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "certctrl.settings")
    if os.environ["DJANGO_SETTINGS_MODULE"] == "certctrl.settings":
        from django.conf import settings

        from certctrl.environment import refusing_in_a_sentence
        from standalone import embedded

        with refusing_in_a_sentence():
            # Before Django reads its settings, because they need the secrets of the embedded
            # server.
            (embedded.prepare if sys.argv[1:] == ["up"] else embedded.recall)()
            settings.SECRET_KEY  # noqa: B018 - reads them all
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except Exception as exc:
        from certctrl import disk

        if full := disk.refusal_of(exc):
            sys.exit(f"{full.side}: make room, then try again.")
        raise
