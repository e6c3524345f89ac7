# SPDX-License-Identifier: Apache-2.0
# The API under gunicorn:
#
#   gunicorn --config /etc/manila-backup/gunicorn.conf.py manila_backup.wsgi:application
#
# It reads /etc/manila-backup/manila-backup.conf; MANILA_BACKUP_CONFIG in the environment names
# another file. A web server in front, on the same machine, takes TLS and slow clients.

bind = "127.0.0.1:8787"
# Each process has pools of its own: of connections to the database, and to Manila as a gateway.
workers = 2
# A request waits for the database, Keystone or Manila most of its time.
worker_class = "gthread"
threads = 16
# Longer than the web server keeps its connections to us, so that it is not us who close them.
keepalive = 75
# Of a process that gives no sign of life; requests may take longer.
timeout = 60
graceful_timeout = 30
# gunicornc is not for this service; its socket would stand in the home of the user.
control_socket_disable = True
# As long as what Keystone's tokens and the client's longest listing need.
limit_request_line = 8190
limit_request_field_size = 32768
# Only the web server on this machine may say who the client is and whether it used TLS.
forwarded_allow_ips = "127.0.0.1"
