# SPDX-License-Identifier: Apache-2.0
"""The small Manila-compatible shares API of the standalone mode, over the ``local`` provider.

It answers what python-manilaclient asks about shares, access rules, export locations, snapshots and
types, as far as directories of one machine can have them. Its routes are handed to
:func:`manila_backup.api.app.build_app` as ``extra_routes``.
"""
