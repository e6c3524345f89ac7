# SPDX-License-Identifier: Apache-2.0
"""To be imported before oslo.service and oslo.messaging: chooses oslo.service's threading back end
(its default is eventlet, which is never imported here).
"""

from oslo_service import backend

backend.register_backend_default_hook(lambda: backend.BackendType.THREADING)
