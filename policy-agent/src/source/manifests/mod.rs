//! Reading folders of manifests.
