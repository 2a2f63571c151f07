"""Private names of Ray's are imported by one module only."""

from __future__ import annotations

from tests.support.imports import imports_of, modules_of


def test_only_ray_private_imports_rays_private_names() -> None:
    users = {
        module
        for module, file in modules_of("deployments", "batch").items()
        if any(name.startswith("ray.") and "._" in name for name in imports_of(file))
    }
    assert users == {"deployments.ray_private"}
