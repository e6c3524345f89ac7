# SPDX-License-Identifier: Apache-2.0
"""The ``manila`` share provider: shares of a real Manila, reached with a service user.

What it relies on was measured on manila 23.0.1 and is told to operators in ``doc/manila.md``.
"""
