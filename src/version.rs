//! Versions that clients ask for.

/// The etcd release whose behaviour jetway has; clients derive features from it.
pub(crate) const ETCD_VERSION: &str = "3.7.3";
/// The cluster version etcd of that release reports.
pub(crate) const CLUSTER_VERSION: &str = "3.7.0";
