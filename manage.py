#!/usr/bin/env python
import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "certctrl.settings")
    if os.environ["DJANGO_SETTINGS_MODULE"] == "certctrl.settings":
        from certctrl import embedded

        # Before Django reads its settings: they want the secrets that the embedded server makes and keeps.
        (embedded.prepare if sys.argv[1:] == ["up"] else embedded.recall)()
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
