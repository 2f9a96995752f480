"""Docker Engine: images built through BuildKit, steps run in hardened containers."""
