# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a catalog or a manifest. Whatever bytes they are fed, readers raise these."""

from __future__ import annotations

from manila_backup.exception import PermanentError


class CatalogDamaged(PermanentError):
    """The catalog is not what a writer wrote; ``what`` says where and how."""

    message = "The catalog is damaged: {what}"


class ManifestDamaged(PermanentError):
    """The manifest is not what a writer wrote, or made by a later version."""

    message = "The manifest is damaged: {what}"
