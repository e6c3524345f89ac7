# SPDX-License-Identifier: Apache-2.0
"""For sites that keep upstream's API: a backup driver for manila-data with our engine behind it.

``driver`` is the only module that imports Manila, and is imported by manila-data only.
"""
