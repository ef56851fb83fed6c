"""`python -m certctrl_agent` is the command `certctrl-agent`."""

from certctrl_agent.cli import main

main()
