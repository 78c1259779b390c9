"""The page in the browser (extra ``app``).

:mod:`~metadeblur.app.service` keeps what each visitor brings, :mod:`~metadeblur.app.tasks` is what is done with it, in
processes that :mod:`~metadeblur.app.queue` starts, queues and ends; :mod:`~metadeblur.app.page` shows it, and
:mod:`~metadeblur.app.server` puts it on the network.
"""
