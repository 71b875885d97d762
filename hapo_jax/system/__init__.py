"""What a program needs of the machine it runs on; nothing here knows the rest.

errors.py    ends of a run that are no faults of the program
folders.py   is a folder one that a run can live in?
limits.py    limits that a process was started under
lock.py      one run per folder
own_code.py  modules that a config names
patience.py  tries again where a disk fails for a while
side.py      outputs that a run can do without
streams.py   standard output that cannot end a program
watchdog.py  ends a process that makes no progress
"""
