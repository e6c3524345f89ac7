# SPDX-License-Identifier: Apache-2.0
"""The C extension; all else is in setup.cfg.

It is optional: where there is no compiler, or no header of Python, the package is installed
without it, and the same work is done in Python.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "manila_backup.data.copy._native",
            ["manila_backup/data/copy/_native.c"],
            extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra"],
            optional=True,
        )
    ]
)
