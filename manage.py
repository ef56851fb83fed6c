#!/usr/bin/env python
import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "certctrl.settings")
    if sys.argv[1:] == ["up"]:
        from certctrl import embedded

        embedded.prepare()  # before Django reads its settings, which want the secrets that this makes
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
