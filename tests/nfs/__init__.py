# SPDX-License-Identifier: Apache-2.0
"""Tests on real kernel NFS, in a virtual machine (``vm.py``). What runs inside is in ``guest/``."""
